"""Results of a search: a table, a plot of the Pareto front, settings for the worker, and a policy."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.table import Table

from twolane.bench.report import check_drawable
from twolane.tune.plan import DEFAULTS, Trial, pareto_front
from twolane.tune.threshold import Threshold

HEADROOM: Final = 1.25  # an SLO at the measured p95 itself would be violated about half of the time
MEBIBYTE: Final = 2**20
WORKER_SETTINGS: Final = ("max_num_seqs", "entropy_bound", "confidence_threshold")


def table(trials: Sequence[Trial], chosen: Trial | None) -> Table:
    """Return all candidates, fastest first; * marks the Pareto front and > the chosen one."""
    output = Table(title="Longest trial of each candidate", title_justify="left")
    output.add_column("")
    output.add_column("parameters")
    for name in ("requests", "p50 ms", "p95 ms", "quality", "memory MiB", "errors"):
        output.add_column(name, justify="right", no_wrap=True)
    best = pareto_front(trials)
    for trial in sorted(trials, key=lambda one: one.p95_ms):
        mark = (">" if trial is chosen else "") + ("*" if trial in best else "")
        output.add_row(mark, str(trial.parameters), *_cells(trial), style="bold" if trial is chosen else "")
    return output


def draw(trials: Sequence[Trial], chosen: Trial | None, path: Path) -> None:
    """Plot quality over p95 latency. Raises WrongUseError without matplotlib, OSError if the file cannot be written."""
    check_drawable(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.5), layout="constrained")
    axes = figure.subplots()
    known = [trial for trial in trials if math.isfinite(trial.p95_ms)]
    axes.scatter(*_points(known), color="#a0aec0", label="tried")
    axes.plot(*_points(pareto_front(known)), color="#2b6cb0", marker="o", drawstyle="steps-post", label="Pareto front")
    for trial, name, ink in ((_with_defaults(known), "worker defaults", "#2f855a"), (chosen, "chosen", "#c53030")):
        if trial is not None:
            axes.scatter(*_points([trial]), s=120, facecolors="none", edgecolors=ink, linewidths=2, label=name)
    axes.set(xlabel="p95 latency, milliseconds", ylabel="quality, share of correct responses", xscale="log")
    axes.legend(loc="lower right")
    axes.grid(visible=True, alpha=0.3)
    figure.savefig(path, dpi=110)


def environment_of(chosen: Trial) -> str:
    """Return environment variables for the worker: what applies to its checkpoint, whoever sends the requests."""
    lines = [f"# Measured: {_measured(chosen)}."]
    for name in WORKER_SETTINGS:
        value = chosen.parameters.changed.get(name)
        unchanged = f"# {name}: keep the current value."
        lines.append(unchanged if value is None else f"TWOLANE_WORKER_{name.upper()}={value:g}")
    return "\n".join((*lines, ""))


def policy_of(chosen: Trial, *, url: str, model: str, threshold: Threshold | None = None) -> str:
    """Return a valid policy with the request parameters, an SLO above the measured p95, and the minimum confidence."""
    params = ", ".join(f"{name}: {value:g}" for name, value in chosen.parameters.request_params.items())
    decoding = chosen.parameters.decoding
    mode = f"decoding: {decoding}" if decoding else f"diffusion: {{{params}}}"
    slo_ms = math.ceil(chosen.p95_ms * HEADROOM)
    return f"""\
# Measured: {_measured(chosen)}. The SLO is {HEADROOM - 1:.0%} above the measured p95.
# Copy `diffusion` or `decoding` to your worker's target, and `slo` and `min_confidence` to the routes that use it.
version: 1
targets:
  fast:
    kind: worker
    url: "{url}"
    model: "{model}"
    location: in_cluster
    {mode}
routes:
  - name: tuned
    use: fast
    slo: {{p95_ms: {slo_ms}}}
{_minimum(threshold)}"""


def _minimum(threshold: Threshold | None) -> str:
    return "" if threshold is None else f"    # Measured: {threshold}.\n    min_confidence: {threshold.minimum!r}\n"


def _measured(trial: Trial) -> str:
    return f"p95 {trial.p95_ms:.0f} ms, {trial.quality:.1%} of {trial.sent} responses correct"


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


def _with_defaults(trials: Sequence[Trial]) -> Trial | None:
    return next((trial for trial in trials if trial.parameters == DEFAULTS), None)
