"""Benchmarks the worker's engine loop: `python -m benchmarks.worker [--check] [--json FILE] [--checkpoint DIR]`.

Our loop and transformers' `generate()` complete the same requests with the same weights, alternately in one process, on
the same number of threads. Figures are ratios of medians, so a slow machine changes them little. transformers runs with
its fastest experts implementation, and its static batches do not wait for requests to arrive.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.worker_compiled import MIXED_REQUESTS, compare, random_requests, small_experts
from benchmarks.worker_load import under_load
from benchmarks.worker_requests import (
    MIXED_TASKS,
    InstrumentedModel,
    Run,
    SeparatePasses,
    Transformers,
    answer,
    request_for,
    samples,
)
from benchmarks.worker_steps import StepCost, step_costs
from benchmarks.worker_waits import predicted_wait
from diffusion_worker.models.diffusion_gemma import DiffusionGemmaModel
from diffusion_worker.models.interface import DiffusionModel
from diffusion_worker.models.loader import LoadOptions, load
from diffusion_worker.types.requests import DecodingMode, GenerationRequest

CONCURRENCY: Final = 8  # requests in flight
REQUESTS: Final = 12 * CONCURRENCY  # many, so that filling and draining the batch matters little
ROUNDS: Final = 5
STATIC_BATCHES: Final = (2, 4, 8)
STAGGER_STEPS: Final = 1
WAITING_REQUESTS: Final = 600
MIXED_SHARES: Final = {DecodingMode.VERIFIED: 0.3, DecodingMode.AUTOREGRESSIVE: 0.05}
MIXED_RATE: Final = 0.5  # autoregressive requests take many times the iterations, so fewer arrive


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """The limit of a figure; `note` is its unit or reference."""

    note: str
    at_most: float | None = None
    at_least: float | None = None

    def is_cleared_by(self, value: float) -> bool:
        """Whether the value is within the limit."""
        above = self.at_least is None or value >= self.at_least
        return above and (self.at_most is None or value <= self.at_most)

    def __str__(self) -> str:
        return f"<= {self.at_most:g}" if self.at_most is not None else f">= {self.at_least:g}"


BARS: Final[MappingProxyType[str, Bar]] = MappingProxyType(
    {
        "single request, latency": Bar(note="x generate()", at_most=1.0),
        "staggered, tokens/s": Bar(note="x what the model allows", at_least=0.85),
        "staggered, tokens/s again": Bar(note="x best static batch", at_least=1.15),
        "staggered, forward passes": Bar(note="x simultaneous", at_most=1.15),
        "prompts beside canvases, CPU": Bar(note="x separate passes", at_most=1.0),
        "mixed decoding modes, time": Bar(note="x each mode by itself", at_most=1.2),
        "verified, latency": Bar(note="x autoregressive", at_most=0.5),
        "outside the model at 8 rows": Bar(note="share of a step", at_most=0.12),
        "predicted wait, median error": Bar(note="of the wait", at_most=0.25),
        "event loop held up, p99": Bar(note="ms", at_most=10.0),
        "resident memory, growth": Bar(note="MiB", at_most=8.0),
        "compiled, embedded checkpoint": Bar(note="x generate() compiled", at_most=1.05),
        "compiled, small experts": Bar(note="x generate() compiled", at_most=1.05),
        "compiled again, mixed requests": Bar(note="graphs", at_most=0.0),
        "compiled, graph breaks": Bar(note="breaks", at_most=0.0),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured figure; BARS holds its limit under the same name."""

    name: str
    value: float
    detail: str

    @property
    def is_cleared(self) -> bool:
        """Whether the figure is within its limit."""
        return BARS[self.name].is_cleared_by(self.value)


def main() -> int:
    """Run the command line; returns 1 if `--check` finds a figure outside its limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default="checkpoints/twolane-tiny", help="folder or hub id")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of both implementations")
    parser.add_argument("--compiled", action="store_true", help="measure compiled passes instead (takes minutes)")
    parser.add_argument("--requests", type=int, default=5000, help="requests of the memory measurement")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a figure is outside its limit")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    options = parser.parse_args()
    model = load(options.checkpoint, LoadOptions(threads=options.threads))
    torch.set_num_threads(options.threads)
    if options.compiled:
        figures, costs, conditions = compiled(model), dict[int, StepCost](), "compiled"
    else:
        figures, costs, conditions = uncompiled(model, options.checkpoint, options.requests)
    show(figures, costs, f"{options.threads} thread(s), {conditions}")
    if options.json:
        rows = [asdict(figure) | {"bar": str(BARS[figure.name])} for figure in figures]
        steps = [asdict(cost) for cost in costs.values()]
        options.json.write_text(json.dumps({"figures": rows, "steps": steps}, indent=1) + "\n")
    return int(options.check and not all(figure.is_cleared for figure in figures))


def uncompiled(
    model: DiffusionGemmaModel, checkpoint: str, num_requests: int
) -> tuple[list[Figure], dict[int, StepCost], str]:
    """(figures, costs of steps, how transformers ran)."""
    drawn = samples(REQUESTS)
    requests = [request_for(sample, model.info.denoising) for sample in drawn]
    reference = Transformers(checkpoint)
    reference.choose_experts(requests[:CONCURRENCY])
    costs = step_costs(model, requests)
    figures = [
        *throughput(model, reference, requests, [sample.answer for sample in drawn], costs),
        passes(model, requests),
        one_pass(model, requests),
        *decoding_modes(model, requests),
        outside(costs[CONCURRENCY]),
        asyncio.run(waits(model, requests)),
        *asyncio.run(loaded(model, requests, num_requests)),
    ]
    return figures, costs, f"experts of transformers: {reference.experts}"


def compiled(model: DiffusionGemmaModel) -> list[Figure]:
    """Compiled passes of the checkpoint and of a small model with experts, beside `generate()`, and what was compiled
    again for mixed requests."""
    experts = small_experts()
    drawn = [request_for(sample, model.info.denoising) for sample in samples(MIXED_REQUESTS)]
    found = {
        "embedded checkpoint": compare(model, drawn),
        "small experts": compare(experts, random_requests(experts, MIXED_REQUESTS)),
    }
    ratios = [
        Figure(
            name=f"compiled, {name}",
            value=each.ratio,
            detail=f"{each.ours_ms:.1f} against {each.theirs_ms:.1f} ms of CPU a request",
        )
        for name, each in found.items()
    ]
    graphs, breaks = (sum(getattr(each, name) for each in found.values()) for name in ("graphs", "graph_breaks"))
    return [
        *ratios,
        Figure(name="compiled again, mixed requests", value=graphs, detail=f"over {MIXED_REQUESTS} requests, twice"),
        Figure(name="compiled, graph breaks", value=breaks, detail="in all of them"),
    ]


def throughput(
    model: DiffusionModel,
    reference: Transformers,
    requests: Sequence[GenerationRequest],
    wanted: Sequence[str],
    costs: dict[int, StepCost],
) -> list[Figure]:
    """Throughput of single and staggered requests, for our loop and transformers alternately."""
    runs: dict[str, list[Run]] = {}
    for _ in range(ROUNDS):
        ones = [answer(model, [request], rows=1) for request in requests[:CONCURRENCY]]
        theirs = [reference.answer([request], rows=1) for request in requests[:CONCURRENCY]]
        runs.setdefault("one", []).append(joined(ones))
        runs.setdefault("generate", []).append(joined(theirs))
        runs.setdefault("alone", []).append(answer(model, requests, rows=1))
        runs.setdefault("staggered", []).append(answer(model, requests, rows=CONCURRENCY, stagger=STAGGER_STEPS))
        for rows in STATIC_BATCHES:
            runs.setdefault(f"static {rows}", []).append(reference.answer(requests, rows=rows))
    seconds = {name: statistics.median(run.seconds for run in many) for name, many in runs.items()}
    speed = {name: many[0].tokens / seconds[name] for name, many in runs.items()}
    allowed = allowed_speed_up(costs)
    static = max((f"static {rows}" for rows in STATIC_BATCHES), key=lambda name: speed[name])
    one, generate, staggered = (runs[name][0].texts for name in ("one", "generate", "staggered"))
    ms = [1000 * seconds[name] / CONCURRENCY for name in ("one", "generate")]
    return [
        Figure(
            name="single request, latency",
            value=seconds["one"] / seconds["generate"],
            detail=f"{ms[0]:.1f} against {ms[1]:.1f} ms; {agreeing(one, generate)} of {CONCURRENCY} answers equal",
        ),
        Figure(
            name="staggered, tokens/s",
            value=speed["staggered"] / speed["alone"] / allowed,
            detail=f"{speed['staggered']:.0f} against {speed['alone']:.0f} alone; the model allows {allowed:.2f} x; "
            f"{agreeing(staggered, wanted)} of {len(requests)} answers correct",
        ),
        Figure(
            name="staggered, tokens/s again",
            value=speed["staggered"] / speed[static],
            detail=f"{speed['staggered']:.0f} against {speed[static]:.0f} ({static}); "
            f"{agreeing(runs[static][0].texts, wanted)} of {len(requests)} right",
        ),
    ]


def joined(runs: Sequence[Run]) -> Run:
    """Consecutive runs as one."""
    return Run(
        texts=tuple(text for run in runs for text in run.texts),
        tokens=sum(run.tokens for run in runs),
        seconds=sum(run.seconds for run in runs),
    )


def allowed_speed_up(costs: dict[int, StepCost]) -> float:
    """Speed-up of CONCURRENCY rows over one row that the model's passes alone allow."""
    return CONCURRENCY * costs[1].model_ms / costs[CONCURRENCY].model_ms


def agreeing(some: Sequence[str], others: Sequence[str]) -> int:
    """Number of equal pairs of texts."""
    return sum(one == other for one, other in zip(some, others, strict=True))


def passes(model: DiffusionModel, requests: Sequence[GenerationRequest]) -> Figure:
    """Forward passes with staggered arrivals, relative to simultaneous arrivals."""
    together, apart = InstrumentedModel(model), InstrumentedModel(model)
    answer(together, requests, rows=CONCURRENCY)
    answer(apart, requests, rows=CONCURRENCY, stagger=STAGGER_STEPS)
    detail = f"{apart.passes} against {together.passes} for {len(requests)} requests, {CONCURRENCY} at a time"
    return Figure(name="staggered, forward passes", value=apart.passes / together.passes, detail=detail)


def one_pass(model: DiffusionModel, requests: Sequence[GenerationRequest]) -> Figure:
    """Processor time of staggered requests whose prompts, seals and canvases share a pass, relative to separate ones;
    alternately."""
    spent: dict[type[InstrumentedModel], list[float]] = {InstrumentedModel: [], SeparatePasses: []}
    counted: dict[type[InstrumentedModel], int] = {}
    for _ in range(ROUNDS):
        for kind, seconds in spent.items():
            each, started = kind(model), time.process_time()
            answer(each, requests, rows=CONCURRENCY, stagger=STAGGER_STEPS)
            seconds.append(time.process_time() - started)
            counted[kind] = each.passes
    ratios = [one / apart for one, apart in zip(spent[InstrumentedModel], spent[SeparatePasses], strict=True)]
    return Figure(
        name="prompts beside canvases, CPU",
        value=statistics.median(ratios),
        detail=f"{counted[InstrumentedModel]} against {counted[SeparatePasses]} passes",
    )


def decoding_modes(model: DiffusionModel, requests: Sequence[GenerationRequest]) -> list[Figure]:
    """Requests of all decoding modes in one batch against each mode by itself, and single requests of two modes;
    alternately."""
    modes = tuple(DecodingMode)
    tasks = len(MIXED_TASKS)  # in turn
    mixed = [replace(each, decoding_mode=modes[place // tasks % len(modes)]) for place, each in enumerate(requests)]
    groups = [[each for each in mixed if each.decoding_mode is mode] for mode in modes]
    ones = {mode: [replace(each, decoding_mode=mode) for each in requests[:CONCURRENCY]] for mode in modes}
    together, apart, alone = list[float](), list[float](), {mode: list[float]() for mode in modes}
    for _ in range(ROUNDS):
        together.append(answer(model, mixed, rows=CONCURRENCY).seconds)
        apart.append(sum(answer(model, group, rows=CONCURRENCY).seconds for group in groups))
        for mode in modes:
            alone[mode].append(answer(model, ones[mode], rows=1).seconds / CONCURRENCY)
    seconds = {mode: statistics.median(taken) for mode, taken in alone.items()}
    verified, read = seconds[DecodingMode.VERIFIED], seconds[DecodingMode.AUTOREGRESSIVE]
    return [
        Figure(
            name="mixed decoding modes, time",
            value=statistics.median(together) / statistics.median(apart),
            detail=f"{statistics.median(together):.2f} against {statistics.median(apart):.2f} s, {len(mixed)} requests",
        ),
        Figure(
            name="verified, latency",
            value=verified / read,
            detail=f"{1000 * verified:.1f} against {1000 * read:.1f} ms",
        ),
    ]


def outside(cost: StepCost) -> Figure:
    """Share of a step spent outside the model."""
    detail = f"step {cost.step_ms:.2f} ms, model {cost.model_ms:.2f} ms"
    return Figure(name="outside the model at 8 rows", value=cost.outside, detail=detail)


async def waits(model: DiffusionModel, requests: Sequence[GenerationRequest]) -> Figure:
    """Error of predicted queue waits."""
    served_per_s = len(requests) / answer(model, requests, rows=CONCURRENCY, stagger=STAGGER_STEPS).seconds
    seen = await predicted_wait(model, requests, num_requests=WAITING_REQUESTS, served_per_s=served_per_s)
    mixed = await predicted_wait(
        model,
        requests,
        num_requests=WAITING_REQUESTS,
        served_per_s=served_per_s * MIXED_RATE,
        shares=MIXED_SHARES,
    )
    return Figure(
        name="predicted wait, median error",
        value=seen.median_error,
        detail=f"{seen.count} waits, median {seen.median_wait_ms:.0f} ms, predicted {seen.median_ratio:.2f} x of it; "
        f"of mixed decoding modes: error {mixed.median_error:.2f}, predicted {mixed.median_ratio:.2f} x of it",
    )


async def loaded(model: DiffusionModel, requests: Sequence[GenerationRequest], num_requests: int) -> list[Figure]:
    """Event-loop stalls and memory growth of the engine under load."""
    load_seen = await under_load(model, requests, seconds=8.0, num_requests=num_requests)
    return [
        Figure(name="event loop held up, p99", value=load_seen.stall_p99_ms, detail="1 ms ticks with 8 clients"),
        Figure(name="resident memory, growth", value=load_seen.growth_mib, detail=f"over {num_requests} requests"),
    ]


def show(figures: Sequence[Figure], costs: dict[int, StepCost], conditions: str) -> None:
    """Print figures and step costs."""
    table = Table(title=f"The worker's loop ({conditions})", title_justify="left")
    for heading in ("", "figure", "", "bar", "", "as measured"):
        table.add_column(heading, justify="right" if heading in ("figure", "bar") else "left")
    for figure in figures:
        bar = BARS[figure.name]
        verdict = "[green]cleared" if figure.is_cleared else "[red]missed"
        table.add_row(figure.name, f"{figure.value:.2f}", bar.note, str(bar), verdict, figure.detail)
    for rows, cost in costs.items():
        detail = f"{cost.row_ms:.2f} ms a row; model {cost.model_ms:.2f} ms, outside {cost.outside:.1%}"
        table.add_row(f"step at {rows} rows", f"{cost.step_ms:.2f}", "ms", "", "", detail)
    Console(width=None if sys.stdout.isatty() else 150).print(table)


if __name__ == "__main__":
    sys.exit(main())
