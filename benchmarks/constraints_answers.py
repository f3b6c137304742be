"""Does a constraint cost the embedded checkpoint right answers? `python -m benchmarks.constraints_answers [--check]`

Held-out orders of the extraction task, answered by the loop that serves with and without the task's own schema, each
with seeds of its own. Exact match of the text.
"""

import argparse
import random
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.vocabularies import SHIPPED, shipped
from diffusion_worker.constraints.compile import compile_schema
from diffusion_worker.constraints.cursor import open_cursor
from diffusion_worker.constraints.lift import lift
from diffusion_worker.loop import run
from diffusion_worker.nets.interface import DiffusionNet
from diffusion_worker.nets.loader import LoadOptions, load
from diffusion_worker.records import Ask, Reading
from training.asks import ask_for, text_of
from training.tasks.orders import SCHEMA, order
from training.tasks.sample import Sample, Wish


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """Of one kind of words and one reading: right answers without and with the schema, canvas steps of each."""

    words: str
    reading: Reading
    count: int
    free: int
    constrained: int
    free_steps: float
    constrained_steps: float


def measure(net: DiffusionNet, *, invented: bool, reading: Reading, count: int, seed: int = 5) -> Answers:
    """Answer the same `count` samples twice."""
    rng = random.Random(seed)
    samples = [order(rng, Wish(split="test", invented=float(invented))) for _ in range(count)]
    asks = [ask_for(net, sample, reading, seed=place) for place, sample in enumerate(samples)]
    automaton = lift(compile_schema(SCHEMA).automaton, shipped().read())
    assert automaton is not None
    kept = [replace(ask, cursor=open_cursor(automaton, ask.max_tokens)) for ask in asks]
    (free, free_steps), (constrained, steps) = _right(net, samples, asks), _right(net, samples, kept)
    return Answers(
        words="invented" if invented else "known",
        reading=reading,
        count=count,
        free=free,
        constrained=constrained,
        free_steps=free_steps,
        constrained_steps=steps,
    )


def main() -> int:
    """Command line; with `--check` 1 if any row is less right with its schema than without."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300, help="samples of each row")
    parser.add_argument("--seed", type=int, default=5, help="of the samples")
    parser.add_argument("--check", action="store_true", help="exit 1 if a schema costs right answers")
    options = parser.parse_args()
    net = load(str(SHIPPED), LoadOptions(threads=1))
    rows = [
        measure(net, invented=invented, reading=reading, count=options.count, seed=options.seed)
        for invented in (False, True)
        for reading in Reading
    ]
    for row in rows:
        print(
            f"{row.words:>8}, {row.reading.value:<14}: {row.free}/{row.count} free in {row.free_steps:.1f} steps, "
            f"{row.constrained}/{row.count} within the schema in {row.constrained_steps:.1f}"
        )
    return int(options.check and any(row.constrained < row.free for row in rows))


def _right(net: DiffusionNet, samples: Sequence[Sample], asks: Sequence[Ask]) -> tuple[int, float]:
    answers = run(net, asks)
    right = sum(text_of(answer) == sample.answer for answer, sample in zip(answers, samples, strict=True))
    return right, statistics.fmean(answer.end.usage.denoising_steps for answer in answers)


if __name__ == "__main__":
    sys.exit(main())
