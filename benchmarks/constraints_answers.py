"""Benchmark of the accuracy of constrained answers: `python -m benchmarks.constraints_answers [--check]`.

The embedded checkpoint answers held-out samples of the tasks with a fixed format in several ways: without a constraint,
with it, and with alternatives that enforce the format too (a naive mask on the canvas, llguidance left to right). All
ways answer the same samples with the same seeds, so they are compared in pairs (McNemar's exact test). An answer is
correct if its text is identical to the expected one.
"""

import argparse
import importlib.util
import json
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from benchmarks.constraints_masks import MaskedModel
from benchmarks.left_to_right import LeftToRight, OfModel
from benchmarks.vocabularies import SHIPPED, shipped
from diffusion_worker.constraints.compile import compile_constraint
from diffusion_worker.constraints.inference.matcher import open_matcher
from diffusion_worker.constraints.spec import Constraint
from diffusion_worker.constraints.tokens.compilation import compile_tokens
from diffusion_worker.engine.loop import run
from diffusion_worker.models.interface import DiffusionModel
from diffusion_worker.models.loader import LoadOptions, load
from diffusion_worker.types.requests import DecodingMode, GenerationRequest
from training.mcnemar import compared
from training.requests import request_for, text_of
from training.tasks.orders import SCHEMA, order
from training.tasks.sample import Generator, Sample, SampleSpec
from training.tasks.sudoku import sudoku
from training.vocabulary import decode_ids

GRID: Final = "[1-4]{16}"
SIGNIFICANT: Final = 0.05
KEPT: Final = "constrained"
Answered = Callable[[], Sequence[tuple[str, int]]]  # texts, and the passes of each


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task: the source of its samples and the format of their answers."""

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
class Method:
    """The results of one way of answering: which samples were correct, and the mean passes and ms per answer."""

    decoding_mode: DecodingMode
    name: str
    right: tuple[bool, ...]
    passes: float
    ms: float


def measure(
    model: DiffusionModel, task: Task, *, count: int, seed: int, guide: LeftToRight | None = None, is_naive: bool = True
) -> list[Method]:
    """Answer the same `count` samples in all ways: on canvases unconstrained, constrained and, if `is_naive`, with a
    naive mask; left to right unconstrained, constrained and, with a guide and a schema, by llguidance."""
    rng = random.Random(seed)
    samples = [task.generator(rng, SampleSpec(split="test", invented=task.invented)) for _ in range(count)]
    automaton = compile_tokens(compile_constraint(task.constraint).automaton, shipped().read())
    assert automaton is not None
    methods = []
    for decoding_mode in DecodingMode:
        requests = [
            request_for(model, sample, decoding_mode, seed=1000 * seed + place) for place, sample in enumerate(samples)
        ]
        kept = [replace(request, matcher=open_matcher(automaton, request.max_tokens)) for request in requests]
        methods += [
            _measure_method(decoding_mode, "free", samples, _by(model, requests)),
            _measure_method(decoding_mode, KEPT, samples, _by(model, kept)),
        ]
        is_diffusion = decoding_mode is DecodingMode.DIFFUSION
        if is_diffusion and is_naive:
            methods.append(
                _measure_method(decoding_mode, "naive mask", samples, _by(MaskedModel(model, automaton), requests))
            )
        elif not is_diffusion and guide is not None and task.constraint.kind == "json_schema":
            methods.append(
                _measure_method(
                    decoding_mode, "llguidance", samples, _guided(model, guide, task.constraint.value, requests)
                )
            )
    return methods


def main() -> int:
    """Command line; returns 1 if `--check` finds a constraint that loses significantly many correct answers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="number of samples per task and seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[5], help="of the samples")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a constraint lowers accuracy (p < 0.05)")
    options = parser.parse_args()
    model = load(str(SHIPPED), LoadOptions(threads=1))
    guide = LeftToRight(shipped()) if importlib.util.find_spec("llguidance") else None
    rows: list[dict[str, Any]] = []
    for name in options.tasks:
        rows += _rows(
            name, [measure(model, TASKS[name], count=options.count, seed=seed, guide=guide) for seed in options.seeds]
        )
    print("| " + " | ".join(rows[0]) + " |\n" + "| --- " * len(rows[0]) + "|")
    for row in rows:
        print("| " + " | ".join(str(value) for value in row.values()) + " |")
    if options.json:
        options.json.write_text(json.dumps({"seeds": options.seeds, "rows": rows}, indent=1))
    return int(options.check and any(_is_worse(row) for row in rows))


def _measure_method(decoding_mode: DecodingMode, name: str, samples: Sequence[Sample], answered: Answered) -> Method:
    started = time.thread_time()
    answers = answered()
    seconds = time.thread_time() - started
    return Method(
        decoding_mode=decoding_mode,
        name=name,
        right=tuple(text == sample.answer for (text, _), sample in zip(answers, samples, strict=True)),
        passes=sum(passes for _, passes in answers) / len(answers),
        ms=1000 * seconds / len(answers),
    )


def _by(model: DiffusionModel, requests: Sequence[GenerationRequest]) -> Answered:
    """Answer the samples on canvases, eight rows per pass."""
    return lambda: [(text_of(answer), answer.end.usage.forward_passes) for answer in run(model, requests)]


def _guided(model: DiffusionModel, guide: LeftToRight, schema: Any, requests: Sequence[GenerationRequest]) -> Answered:
    """Answer the samples one after the other."""

    def answered() -> list[tuple[str, int]]:
        found = [guide.decode(schema, OfModel(model, request)) for request in requests]
        return [(decode_ids(list(each.ids)), len(each.ids)) for each in found if each is not None]

    return answered


def _pooled(methods: Sequence[Method]) -> Method:
    """Combine the results of one way over all seeds."""
    return replace(
        methods[0],
        right=tuple(one for method in methods for one in method.right),
        passes=sum(method.passes for method in methods) / len(methods),
        ms=sum(method.ms for method in methods) / len(methods),
    )


def _rows(task: str, parts: Sequence[Sequence[Method]]) -> list[dict[str, Any]]:
    """Print the table of one task: each way compared with the unconstrained one of the same decoding mode."""
    methods = [_pooled(same) for same in zip(*parts, strict=True)]
    free = {method.decoding_mode: method.right for method in methods if method.name == "free"}
    rows = []
    for place, method in enumerate(methods):
        gained, lost, p = compared(free[method.decoding_mode], method.right)
        rows.append(
            {"task": task, "reading": method.decoding_mode.value, "method": method.name, "right": sum(method.right)}
            | {"of": len(method.right), "gained": gained, "lost": lost, "p": float(f"{p:.2g}")}
            | {"passes": round(method.passes, 1), "ms": round(method.ms, 1)}
            | {"right by seed": " ".join(str(sum(part[place].right)) for part in parts)}
        )
    return rows


def _is_worse(row: Mapping[str, Any]) -> bool:
    return bool(row["method"] == KEPT and row["lost"] > row["gained"] and row["p"] < SIGNIFICANT)


if __name__ == "__main__":
    sys.exit(main())
