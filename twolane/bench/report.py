"""Output of a load's statistics: a table for the terminal, plots for a file."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.box import SIMPLE_HEAD
from rich.table import Table

from twolane.bench.figures import PERCENTILES, Figures, LatencySummary
from twolane.bench.load import OK, Sample
from twolane.process.flags import WrongUseError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK: Final = ("#2b6cb0", "#c05621", "#2f855a", "#805ad5", "#718096")
_SUFFIXES: Final = (".png", ".svg", ".pdf")


def table(found: Figures) -> Table:
    """Return a table with a row per latency summary, and counts in the caption."""
    output = Table(
        title=_title(found), caption=_caption(found), title_justify="left", caption_justify="left", box=SIMPLE_HEAD
    )
    output.add_column("ms", overflow="fold")
    for name in ("count", "mean", *(f"p{share:g}" for share in PERCENTILES), "max"):
        output.add_column(name, justify="right", no_wrap=True, min_width=5)  # never truncated
    for name, times in _summaries(found):
        output.add_row(name, *_cells(times))
    return output


def draw(samples: Sequence[Sample], found: Figures, path: Path) -> None:
    """Plot latency over time, and its percentiles. Raises WrongUseError without matplotlib or for an unsupported
    suffix, OSError if the file cannot be written."""
    check_drawable(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    over_time, distribution = figure.subplots(2, 1)
    _draw_over_time(over_time, samples)
    _draw_distribution(distribution, found)
    figure.suptitle(_title(found), ha="left", x=0.02)
    figure.savefig(path, dpi=110)


def check_drawable(path: Path) -> None:
    """Raise WrongUseError if no plot can be written to this path: checked before a load starts."""
    if path.suffix not in _SUFFIXES:
        raise WrongUseError(f"{path}: unsupported suffix (choose from {', '.join(_SUFFIXES)})")
    try:
        import matplotlib  # noqa: F401 - is it there?
    except ModuleNotFoundError:
        raise WrongUseError("plots need matplotlib: pip install 'twolane[load]'") from None


def _draw_over_time(axes: "Axes", samples: Sequence[Sample]) -> None:
    lanes = sorted({sample.headers.get("target", "succeeded") for sample in samples if sample.outcome == OK})
    for lane, ink in zip(lanes, _INK * len(lanes), strict=False):
        of = [one for one in samples if one.outcome == OK and one.headers.get("target", "succeeded") == lane]
        axes.scatter(*_points(of), s=9, color=ink, label=lane, alpha=0.7)
    if failed := [one for one in samples if one.outcome != OK]:
        axes.scatter(*_points(failed), s=24, color="#c53030", marker="x", label="failed")
    axes.set(xlabel="scheduled time, seconds", ylabel="milliseconds", yscale="log")
    axes.legend(loc="upper left")


def _points(samples: Sequence[Sample]) -> tuple[list[float], list[float]]:
    return [one.call.due_s for one in samples], [1000 * one.latency_s for one in samples]


def _draw_distribution(axes: "Axes", found: Figures) -> None:
    for (name, times), ink in zip(_summaries(found), _INK * 9, strict=False):
        if times.count:
            axes.plot(
                [f"p{share:g}" for share in times.percentiles_ms] + ["max"],
                [*times.percentiles_ms.values(), times.max_ms],
                marker="o",
                color=ink,
                label=name,
            )
    axes.set(ylabel="milliseconds", yscale="log")
    axes.grid(visible=True, axis="y", alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper left")


def _summaries(found: Figures) -> list[tuple[str, LatencySummary]]:
    rows = [("latency", found.latency)]
    if found.first_token.count:
        rows.append(("first token", found.first_token))
    return [*rows, *found.lanes.items()]


def _cells(times: LatencySummary) -> list[str]:
    values: list[Any] = [times.mean_ms, *(times.percentiles_ms.get(share) for share in PERCENTILES), times.max_ms]
    return [str(times.count), *("-" if not times.count or value is None else _short(value) for value in values)]


def _short(milliseconds: float) -> str:
    return f"{milliseconds:.1f}" if milliseconds < 100 else f"{milliseconds:.0f}"


def _title(found: Figures) -> str:
    return (
        f"{found.answered} of {found.sent} requests succeeded ({found.success:.2%}) in {found.seconds:.1f} s, "
        f"{found.requests_per_s:.1f} requests/s, {found.tokens_per_s:.0f} tokens/s"
    )


def _caption(found: Figures) -> str:
    lines = ["Latency counts from the scheduled time of a request."]
    if found.late:
        lines.append(
            f"{found.late} requests were sent late: the load generator was too slow, or --max-in-flight delayed them."
        )
    for name, counts in (("Errors", found.errors), ("Fallbacks", found.fallbacks)):
        if counts:
            lines.append(f"{name}: " + ", ".join(f"{what} {count}" for what, count in counts.items()))
    return "\n".join(lines)
