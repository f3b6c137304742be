"""Benchmarks load-adaptive thresholds: `python -m benchmarks.worker_adaptive [--check] [--json FILE] [--count N]`.

The checkpoint answers the same requests twice, without thresholds that follow the queue and with them, while requests
arrive as a Poisson process at 1.2 times the rate that it can serve without. Time is processor time of the thread that
runs the engine, so that other work on the machine changes nothing; idle times are skipped. An answer is in time if it
takes at most IN_TIME times the median of a full batch without a queue. Accuracy is exact match; both answers to a
request have the same random seed.
"""

import argparse
import json
import random
import statistics
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import torch
from rich.console import Console
from rich.table import Table

from diffusion_worker.engine.loop import Answer, Capacity, Loop
from diffusion_worker.models.interface import DiffusionModel
from diffusion_worker.models.loader import LoadOptions, load
from diffusion_worker.types.events import BlockSealed, Faulted, Finished, PrefixStable
from diffusion_worker.types.requests import DecodingMode, GenerationRequest
from training.requests import request_for, text_of
from training.tasks.registry import TASKS
from training.tasks.sample import Sample, SampleSpec

ROWS: Final = 8  # in a batch
OVERLOAD: Final = 1.2  # times the capacity
IN_TIME: Final = 2.0
CAPACITY_REQUESTS: Final = 160
GAIN_BAR: Final = 0.20  # of the share in time
LOSS_BAR: Final = 0.01  # of accuracy
THRESHOLD: Final = 0.02  # nats, at full load; larger ones cost accuracy and save no steps, see docs/log.md
MIX: Final = (("extraction", 0.0), ("extraction", 1.0), ("clean-up", 0.0), ("clean-up", 1.0), ("sudoku", 0.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """An answer, and the seconds from its arrival to its end."""

    answer: Answer
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Results of one run over all requests."""

    share_in_time: float
    accuracy: float
    steps: float  # of denoising, per answer
    load: float  # mean of the highest load of each answer
    seconds: float  # of the whole run


class WorkClock:
    """Seconds of processor time of this thread, plus idle times that were skipped."""

    def __init__(self) -> None:
        self._skipped = -time.thread_time()

    def __call__(self) -> float:
        return time.thread_time() + self._skipped

    def skip_to(self, moment: float) -> None:
        """Pass over the time until `moment`."""
        self._skipped += max(0.0, moment - self())


def main() -> int:
    """Run the command line; returns 1 if `--check` finds a figure beyond its bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default="checkpoints/twolane-tiny", help="folder or hub id")
    parser.add_argument("--count", type=int, default=1000, help="requests")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a figure is beyond its bar")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    options = parser.parse_args()
    model = load(options.checkpoint, LoadOptions(threads=1))
    torch.set_num_threads(1)
    drawn = samples(options.count)
    requests = [request_for(model, sample, DecodingMode.DIFFUSION, seed=n) for n, sample in enumerate(drawn)]
    per_s, usual_s = capacity(model, requests[:CAPACITY_REQUESTS])
    arrivals = poisson(len(requests), OVERLOAD * per_s)
    loosest = replace(model.info.denoising, confidence_threshold=THRESHOLD)
    off, on = (
        outcome(serve(model, [replace(each, loosest=limits) for each in requests], arrivals), drawn, IN_TIME * usual_s)
        for limits in (None, loosest)
    )
    show(off, on, per_s=per_s, usual_s=usual_s, count=len(requests))
    if options.json:
        figures = {"off": asdict(off), "on": asdict(on), "capacity_per_s": per_s, "confidence_threshold": THRESHOLD}
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return int(options.check and not is_cleared(off, on))


def is_cleared(off: Outcome, on: Outcome) -> bool:
    """Whether thresholds that follow the queue bring enough answers in time, at a small loss of accuracy."""
    return on.share_in_time - off.share_in_time >= GAIN_BAR and off.accuracy - on.accuracy <= LOSS_BAR


def samples(count: int) -> list[Sample]:
    """Held-out samples of all tasks in turn."""
    return [
        TASKS[task](random.Random(f"adaptive/{number}"), SampleSpec(split="test", invented=invented))
        for number in range(count)
        for task, invented in (MIX[number % len(MIX)],)
    ]


def capacity(model: DiffusionModel, requests: Sequence[GenerationRequest]) -> tuple[float, float]:
    """(requests per second that a full batch serves, median seconds of one of them without a queue)."""
    clock = WorkClock()
    loop, started = _loop(model, requests, clock), clock()
    waiting, begun, taken = deque(requests), dict[int, float](), list[float]()
    while waiting or loop.scheduler.has_work:
        while waiting and len(begun) - len(taken) < ROWS:
            begun[loop.add(waiting.popleft())] = clock()
        for sequence, event in loop.step():
            if isinstance(event, Finished | Faulted):
                taken.append(clock() - begun[sequence])
    return len(requests) / (clock() - started), statistics.median(taken)


def poisson(count: int, per_s: float) -> list[float]:
    """Arrival times in seconds."""
    dice, at, times = random.Random("arrivals"), 0.0, []
    for _ in range(count):
        at += dice.expovariate(per_s)
        times.append(at)
    return times


def serve(model: DiffusionModel, requests: Sequence[GenerationRequest], arrivals: Sequence[float]) -> list[Served]:
    """All answers, in the order of the requests."""
    clock = WorkClock()
    loop, started = _loop(model, requests, clock), clock()
    due = deque((started + at, request) for at, request in zip(arrivals, requests, strict=True))
    arrived, ids, ends = dict[int, float](), dict[int, list[int]](), dict[int, Served]()
    while due or loop.scheduler.has_work:
        if not loop.scheduler.has_work:
            clock.skip_to(due[0][0])
        while due and due[0][0] <= clock():
            at, request = due.popleft()
            sequence = loop.add(request)
            arrived[sequence], ids[sequence] = at, []
        for sequence, event in loop.step():
            if isinstance(event, BlockSealed | PrefixStable):
                ids[sequence] += event.ids
            elif isinstance(event, Finished | Faulted):
                answer = Answer(ids=tuple(ids[sequence]), end=event)
                ends[sequence] = Served(answer=answer, seconds=clock() - arrived[sequence])
    return [ends[sequence] for sequence in sorted(ends)]


def outcome(served: Sequence[Served], drawn: Sequence[Sample], limit_s: float) -> Outcome:
    """The figures of a run."""
    usages = [each.answer.end.usage for each in served]
    return Outcome(
        share_in_time=statistics.fmean(each.seconds <= limit_s for each in served),
        accuracy=statistics.fmean(text_of(each.answer) == one.answer for each, one in zip(served, drawn, strict=True)),
        steps=statistics.fmean(usage.denoising_steps for usage in usages),
        load=statistics.fmean(usage.load or 0.0 for usage in usages),
        seconds=max(each.seconds for each in served),
    )


def show(off: Outcome, on: Outcome, *, per_s: float, usual_s: float, count: int) -> None:
    """Print the table."""
    table = Table(
        title=f"{count} requests at {OVERLOAD} x {per_s:.1f} a second of processor time", title_justify="left"
    )
    for heading in ("threshold", "in time", "accuracy", "steps", "load", "slowest"):
        table.add_column(heading, justify="left" if heading == "threshold" else "right")
    for name, each in (("fixed", off), (f"up to {THRESHOLD}", on)):
        table.add_row(
            name,
            f"{each.share_in_time:.1%}",
            f"{each.accuracy:.2%}",
            f"{each.steps:.2f}",
            f"{each.load:.2f}",
            f"{each.seconds:.2f} s",
        )
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(table)
    console.print(
        f"In time: within {1000 * IN_TIME * usual_s:.0f} ms. Gain {on.share_in_time - off.share_in_time:+.1%} "
        f"(bar {GAIN_BAR:+.0%}), accuracy {on.accuracy - off.accuracy:+.2%} (bar {-LOSS_BAR:+.0%})."
    )


def _loop(model: DiffusionModel, requests: Sequence[GenerationRequest], clock: WorkClock) -> Loop:
    context = max(len(request.prompt_ids) + request.max_tokens for request in requests)
    limits = Capacity(max_num_seqs=ROWS, max_waiting=len(requests), max_context=context)
    return Loop(model, limits, gauge=lambda: (0, 0), clock=clock)


if __name__ == "__main__":
    sys.exit(main())
