"""Does a constraint cost the embedded checkpoint right answers? `python -m benchmarks.constraints_answers [--check]`

Held-out samples of the tasks whose answers have a form, answered in every way that there is: without the constraint,
with it, and with what else could keep it (a naive mask on the canvas, llguidance left to right). All ways answer the
same samples with the same seeds, so they are compared in pairs (McNemar's exact test). Right is the very same text.
"""

import argparse
import importlib.util
import json
import math
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from benchmarks.constraints_masks import MaskedNet
from benchmarks.left_to_right import LeftToRight, OfNet
from benchmarks.vocabularies import SHIPPED, shipped
from diffusion_worker.constraints.compile import compile_constraint
from diffusion_worker.constraints.inference.matcher import open_matcher
from diffusion_worker.constraints.spec import Constraint
from diffusion_worker.constraints.tokens.compilation import compile_tokens
from diffusion_worker.engine.loop import run
from diffusion_worker.models.interface import DiffusionModel
from diffusion_worker.models.loader import LoadOptions, load
from diffusion_worker.types.requests import DecodingMode, GenerationRequest
from training.requests import request_for, text_of
from training.tasks.orders import SCHEMA, order
from training.tasks.sample import Generator, Sample, SampleSpec
from training.tasks.sudoku import sudoku
from training.vocabulary import decode_ids

GRID: Final = "[1-4]{16}"
SIGNIFICANT: Final = 0.05
KEPT: Final = "constrained"
Answered = Callable[[], Sequence[tuple[str, int]]]  # texts, and the passes each of them took


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Where samples come from and what form their answers have."""

    generator: Generator
    invented: float
    constraint: Constraint


TASKS: Final[Mapping[str, Task]] = MappingProxyType(
    {
        "known": Task(generator=order, invented=0.0, constraint=Constraint(kind="json_schema", value=SCHEMA)),
        "invented": Task(generator=order, invented=1.0, constraint=Constraint(kind="json_schema", value=SCHEMA)),
        "sudoku": Task(generator=sudoku, invented=0.0, constraint=Constraint(kind="regex", value=GRID)),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How one way of answering did: which samples were right, passes and ms of an answer on average."""

    decoding_mode: DecodingMode
    name: str
    right: tuple[bool, ...]
    passes: float
    ms: float


def measure(net: DiffusionModel, task: Task, *, count: int, seed: int, guide: LeftToRight | None = None) -> list[Way]:
    """All ways through the same `count` samples: canvases free, masked naively, constrained; left to right free,
    constrained, and, with a guide and a schema, by llguidance."""
    rng = random.Random(seed)
    samples = [task.generator(rng, SampleSpec(split="test", invented=task.invented)) for _ in range(count)]
    automaton = compile_tokens(compile_constraint(task.constraint).automaton, shipped().read())
    assert automaton is not None
    ways = []
    for decoding_mode in DecodingMode:
        asks = [
            request_for(net, sample, decoding_mode, seed=1000 * seed + place) for place, sample in enumerate(samples)
        ]
        kept = [replace(ask, matcher=open_matcher(automaton, ask.max_tokens)) for ask in asks]
        ways += [
            _way(decoding_mode, "free", samples, _by(net, asks)),
            _way(decoding_mode, KEPT, samples, _by(net, kept)),
        ]
        if decoding_mode is DecodingMode.DIFFUSION:
            ways.append(_way(decoding_mode, "naive mask", samples, _by(MaskedNet(net, automaton), asks)))
        elif guide is not None and task.constraint.kind == "json_schema":
            ways.append(_way(decoding_mode, "llguidance", samples, _guided(net, guide, task.constraint.value, asks)))
    return ways


def p_value(better: int, worse: int) -> float:
    """McNemar's exact test, two-sided: how likely pairs that differ are split at least so unevenly by chance
    alone."""
    pairs = better + worse
    ways = sum(math.comb(pairs, count) for count in range(min(better, worse) + 1))
    return float(min(1.0, 2 * ways / 2**pairs))


def compared(free: Sequence[bool], other: Sequence[bool]) -> tuple[int, int, float]:
    """(right only in the other, right only free, p) of paired answers."""
    gained = sum(b and not a for a, b in zip(free, other, strict=True))
    lost = sum(a and not b for a, b in zip(free, other, strict=True))
    return gained, lost, p_value(gained, lost)


def main() -> int:
    """Command line; with `--check` 1 if a constraint costs right answers beyond chance."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="samples of each task and seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[5], help="of the samples")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--check", action="store_true", help="exit 1 if a constraint costs right answers (p < 0.05)")
    options = parser.parse_args()
    net = load(str(SHIPPED), LoadOptions(threads=1))
    guide = LeftToRight(shipped()) if importlib.util.find_spec("llguidance") else None
    rows: list[dict[str, Any]] = []
    for name in options.tasks:
        rows += _rows(
            name, [measure(net, TASKS[name], count=options.count, seed=seed, guide=guide) for seed in options.seeds]
        )
    print("| " + " | ".join(rows[0]) + " |\n" + "| --- " * len(rows[0]) + "|")
    for row in rows:
        print("| " + " | ".join(str(value) for value in row.values()) + " |")
    if options.json:
        options.json.write_text(json.dumps({"seeds": options.seeds, "rows": rows}, indent=1))
    return int(options.check and any(_is_worse(row) for row in rows))


def _way(decoding_mode: DecodingMode, name: str, samples: Sequence[Sample], answered: Answered) -> Way:
    started = time.thread_time()
    answers = answered()
    seconds = time.thread_time() - started
    return Way(
        decoding_mode=decoding_mode,
        name=name,
        right=tuple(text == sample.answer for (text, _), sample in zip(answers, samples, strict=True)),
        passes=sum(passes for _, passes in answers) / len(answers),
        ms=1000 * seconds / len(answers),
    )


def _by(net: DiffusionModel, asks: Sequence[GenerationRequest]) -> Answered:
    """Eight rows share a pass."""
    return lambda: [(text_of(answer), answer.end.usage.forward_passes) for answer in run(net, asks)]


def _guided(net: DiffusionModel, guide: LeftToRight, schema: Any, asks: Sequence[GenerationRequest]) -> Answered:
    """One after the other."""

    def answered() -> list[tuple[str, int]]:
        found = [guide.decode(schema, OfNet(net, ask)) for ask in asks]
        return [(decode_ids(list(each.ids)), len(each.ids)) for each in found if each is not None]

    return answered


def _pooled(ways: Sequence[Way]) -> Way:
    """One way over all seeds."""
    return replace(
        ways[0],
        right=tuple(one for way in ways for one in way.right),
        passes=sum(way.passes for way in ways) / len(ways),
        ms=sum(way.ms for way in ways) / len(ways),
    )


def _rows(task: str, parts: Sequence[Sequence[Way]]) -> list[dict[str, Any]]:
    """Of one task; each way against the free one of the same reading."""
    ways = [_pooled(same) for same in zip(*parts, strict=True)]
    free = {way.decoding_mode: way.right for way in ways if way.name == "free"}
    rows = []
    for place, way in enumerate(ways):
        gained, lost, p = compared(free[way.decoding_mode], way.right)
        rows.append(
            {"task": task, "reading": way.decoding_mode.value, "way": way.name, "right": sum(way.right)}
            | {"of": len(way.right), "gained": gained, "lost": lost, "p": float(f"{p:.2g}")}
            | {"passes": round(way.passes, 1), "ms": round(way.ms, 1)}
            | {"right by seed": " ".join(str(sum(part[place].right)) for part in parts)}
        )
    return rows


def _is_worse(row: Mapping[str, Any]) -> bool:
    return bool(row["way"] == KEPT and row["lost"] > row["gained"] and row["p"] < SIGNIFICANT)


if __name__ == "__main__":
    sys.exit(main())
