"""What a tuning found: a table, the Pareto front as a drawing, settings for the worker, lines for a policy."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.table import Table

from twolane.bench.report import check_drawable
from twolane.tune.plan import Knobs, Trial, front

HEADROOM: Final = 1.25  # a promise at the measured p95 itself would be broken every other minute
MEBIBYTE: Final = 2**20


def table(trials: Sequence[Trial], chosen: Trial | None) -> Table:
    """All settings, fastest first: those that no other dominates are marked with *, the chosen one with >."""
    page = Table(title="Settings, each by its longest trial", title_justify="left")
    page.add_column("")
    page.add_column("settings")
    for name in ("requests", "p50 ms", "p95 ms", "quality", "memory MiB", "errors"):
        page.add_column(name, justify="right", no_wrap=True)
    best = front(trials)
    for trial in sorted(trials, key=lambda one: one.p95_ms):
        mark = (">" if trial is chosen else "") + ("*" if trial in best else "")
        page.add_row(mark, str(trial.knobs), *_cells(trial), style="bold" if trial is chosen else "")
    return page


def draw(trials: Sequence[Trial], chosen: Trial | None, path: Path) -> None:
    """Quality over p95, the front as a line. Raises WrongUseError without matplotlib, OSError if it cannot write."""
    check_drawable(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.5), layout="constrained")
    axes = figure.subplots()
    known = [trial for trial in trials if math.isfinite(trial.p95_ms)]
    axes.scatter(*_points(known), color="#a0aec0", label="tried")
    axes.plot(*_points(front(known)), color="#2b6cb0", marker="o", drawstyle="steps-post", label="Pareto front")
    for trial, name, ink in ((_own(known), "as it is", "#2f855a"), (chosen, "chosen", "#c53030")):
        if trial is not None:
            axes.scatter(*_points([trial]), s=120, facecolors="none", edgecolors=ink, linewidths=2, label=name)
    axes.set(xlabel="p95, milliseconds", ylabel="quality, share answered rightly", xscale="log")
    axes.legend(loc="lower right")
    axes.grid(visible=True, alpha=0.3)
    figure.savefig(path, dpi=110)


def environment_of(chosen: Trial) -> str:
    """Lines for the worker's environment."""
    rows = chosen.knobs.max_num_seqs
    head = f"# p95 {chosen.p95_ms:.0f} ms, {chosen.quality:.1%} right, of {chosen.sent} requests.\n"
    return head + (f"TWOLANE_WORKER_MAX_NUM_SEQS={rows}\n" if rows else "# As many together as it was started with.\n")


def policy_of(chosen: Trial, *, url: str, model: str) -> str:
    """A policy that `twolane policy check` accepts: what requests ask of the worker, and the p95 it can promise."""
    wishes = ", ".join(f"{name}: {value:g}" for name, value in chosen.knobs.wishes.items())
    promise_ms = math.ceil(chosen.p95_ms * HEADROOM)
    measured = f"p95 {chosen.p95_ms:.0f} ms, {chosen.quality:.1%} right, of {chosen.sent} requests"
    return f"""\
# Measured: {measured}; the promise is {HEADROOM - 1:.0%} above.
# Take over `diffusion` into your worker's target, and `slo` into the routes that use it.
version: 1
targets:
  fast:
    kind: worker
    url: "{url}"
    model: "{model}"
    location: in_cluster
    diffusion: {{{wishes}}}
routes:
  - name: tuned
    use: fast
    slo: {{p95_ms: {promise_ms}}}
"""


def _cells(trial: Trial) -> list[str]:
    errors = ", ".join(f"{code} {count}" for code, count in trial.errors.items())
    return [
        str(trial.sent),
        f"{trial.p50_ms:.0f}",
        f"{trial.p95_ms:.0f}",
        f"{trial.quality:.1%}",
        f"{trial.memory_bytes / MEBIBYTE:.0f}",
        errors,
    ]


def _points(trials: Sequence[Trial]) -> tuple[list[float], list[float]]:
    return [trial.p95_ms for trial in trials], [trial.quality for trial in trials]


def _own(trials: Sequence[Trial]) -> Trial | None:
    return next((trial for trial in trials if trial.knobs == Knobs()), None)
