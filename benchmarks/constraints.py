"""Constraints on real schemas: `python -m benchmarks.constraints FILE.jsonl [--check] [--json FILE]`.

Each line of the file holds a `schema` and its `split`. Every schema that compiles is lifted onto a real vocabulary and
answered from random logits, canvas after canvas, by best paths and by joint samples; every answer must close within
its budget and, unless the compiler has left something to the final check, be valid. Beside it: what a step costs
against the softmax of the same logits (one thread, both in numpy), and llguidance decoding the same logits left to
right, where the extra `bench` is installed. What schemas compile at all is counted by `benchmarks.constraints_compile`.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from jsonschema.validators import validator_for
from rich.console import Console
from rich.table import Table

from benchmarks.constraints_embedded import Embedded, measure
from benchmarks.constraints_steps import Noise, StepMs, random_answer, spelled, step_ms
from benchmarks.left_to_right import Greedy, LeftToRight
from benchmarks.vocabularies import VOCABULARIES, Words
from diffusion_worker.constraints.class_scores import score_classes
from diffusion_worker.constraints.compile import Compiled, compile_constraint
from diffusion_worker.constraints.constraint import Constraint
from diffusion_worker.constraints.cursor import open_cursor
from diffusion_worker.constraints.lift import lift
from diffusion_worker.constraints.token_automaton import TokenAutomaton
from diffusion_worker.constraints.viterbi import best_path
from diffusion_worker.constraints.vocabulary import Vocabulary
from diffusion_worker.errors import BadAsk

CANVAS: Final = 256
SPARE: Final = 40  # tokens beyond the shortest answer, for the answers that are pressed
ROOM: Final = 600  # for those that are not
# figure -> (percentile of the schemas, bar)
BARS: Final = {
    "compile and lift, p50, ms": 150.0,
    "compile and lift, p95, ms": 3000.0,
    "best path, p50, x softmax": 1.0,
    "with marginals, p50, x softmax": 3.0,
    "invalid answers": 0.0,
    "embedded: best path, x forward pass": 0.5,
    "embedded: best path, marginals and sample, x forward pass": 0.5,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One schema that compiled."""

    id: str
    split: str
    compile_ms: float
    lift_ms: float
    states: int
    edges: int
    shortest: int  # tokens, the end token counted
    answers: int
    left_to_check: int  # answers that fail a keyword which the compiler left to the final check
    invalid: tuple[str, ...]
    step: StepMs
    best_logprob: float
    greedy: Greedy | None


def main() -> int:
    """Command line; returns 1 if `--check` finds a bar missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, metavar="FILE.jsonl")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bar is missed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--vocabulary", choices=sorted(VOCABULARIES), default="smollm2")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--limit", type=int, help="schemas at most")
    options = parser.parse_args()
    words = VOCABULARIES[options.vocabulary]()
    rows = list(_rows(options.file, words, seeds=options.seeds, limit=options.limit))
    figures = figures_of(rows) | embedded_figures(measure())
    _print(rows, figures)
    if options.json:
        options.json.write_text(json.dumps({"figures": figures, "rows": [asdict(row) for row in rows]}, indent=1))
    return int(options.check and any(figures[name] > bar for name, bar in BARS.items()))


def figures_of(rows: Sequence[Row]) -> dict[str, float]:
    """What the bars are set for."""
    took = [row.compile_ms + row.lift_ms for row in rows]
    best = [row.step.best / row.step.softmax for row in rows]
    marginal = [row.step.marginals / row.step.softmax for row in rows]
    return {
        "compile and lift, p50, ms": _percentile(took, 50),
        "compile and lift, p95, ms": _percentile(took, 95),
        "lift alone, p50, ms": _percentile([row.lift_ms for row in rows], 50),
        "lift alone, p95, ms": _percentile([row.lift_ms for row in rows], 95),
        "best path, p50, x softmax": _percentile(best, 50),
        "best path, p95, x softmax": _percentile(best, 95),
        "with marginals, p50, x softmax": _percentile(marginal, 50),
        "with marginals, p95, x softmax": _percentile(marginal, 95),
        "joint sample, p50, x softmax": _percentile([row.step.sample / row.step.softmax for row in rows], 50),
        "invalid answers": float(sum(len(row.invalid) for row in rows)),
    }


def embedded_figures(embedded: Embedded) -> dict[str, float]:
    """Of the shipped checkpoint, in passes of it."""
    return {
        "embedded: best path, x forward pass": embedded.best / embedded.forward,
        "embedded: best path, marginals and sample, x forward pass": embedded.step / embedded.forward,
    }


def _rows(file: Path, words: Words, *, seeds: int, limit: int | None) -> Iterator[Row]:
    vocabulary = words.read()
    noise = [Noise(canvas=CANVAS, vocab=vocabulary.size, seed=seed) for seed in range(seeds)]
    greedy = _left_to_right(words)
    for line in file.read_text().splitlines()[:limit]:
        document = json.loads(line)
        started = time.thread_time()
        try:
            compiled = compile_constraint(Constraint(kind="json_schema", value=document["schema"]))
        except BadAsk:
            continue  # counted by benchmarks.constraints_compile
        compile_ms = 1000 * (time.thread_time() - started)
        yield _row(document, compiled, compile_ms, words=words, vocabulary=vocabulary, tools=(noise, greedy))


def _row(
    document: dict[str, Any],
    compiled: Compiled,
    compile_ms: float,
    *,
    words: Words,
    vocabulary: Vocabulary,
    tools: tuple[Sequence[Noise], LeftToRight | None],
) -> Row:
    started = time.thread_time()
    automaton = lift(compiled.automaton, vocabulary)
    lift_ms = 1000 * (time.thread_time() - started)
    assert automaton is not None, f"{document['id']}: the vocabulary spells no answer"
    noise, left_to_right = tools
    logits = noise[0].canvas_of(3.0)
    judge = Judge(document["schema"], has_check=bool(compiled.needs_check))
    for one in noise:
        judge.try_answers(automaton, one, words)
    return Row(
        id=document["id"],
        split=document["split"],
        compile_ms=compile_ms,
        lift_ms=lift_ms,
        states=automaton.states,
        edges=automaton.edges,
        shortest=int(automaton.distance[automaton.start]),
        answers=judge.answers,
        left_to_check=judge.left_to_check,
        invalid=tuple(judge.invalid),
        step=step_ms(automaton, logits),
        best_logprob=_best_logprob(automaton, logits),
        greedy=left_to_right.decode(document["schema"], logits) if left_to_right else None,
    )


class Judge:
    """Answers of one schema, judged by jsonschema."""

    def __init__(self, schema: Any, *, has_check: bool) -> None:
        cls = validator_for(schema)
        self._validator = cls(schema, format_checker=cls.FORMAT_CHECKER)
        self._has_check = has_check
        self.answers = 0
        self.left_to_check = 0
        self.invalid = list[str]()

    def try_answers(self, automaton: TokenAutomaton, noise: Noise, words: Words) -> None:
        """Pressed and roomy, best paths and joint samples."""
        shortest = int(automaton.distance[automaton.start])
        for budget in (shortest, shortest + SPARE, shortest + ROOM):
            for is_sampled in (False, True):
                self.take(spelled(words, random_answer(automaton, noise, budget, is_sampled=is_sampled)))

    def take(self, text: str) -> None:
        """Judge one answer."""
        self.answers += 1
        if self._validator.is_valid(json.loads(text)):
            return
        if self._has_check:
            self.left_to_check += 1
        else:
            self.invalid.append(text)


def _best_logprob(automaton: TokenAutomaton, logits: np.ndarray[Any, np.dtype[np.float32]]) -> float:
    """Of the best path over a whole canvas, in which the answer need close; -inf where it cannot."""
    if automaton.distance[automaton.start] > CANVAS:
        return float("-inf")
    return best_path(open_cursor(automaton, CANVAS), score_classes(automaton.classes, logits)).logprob


def _left_to_right(words: Words) -> LeftToRight | None:
    try:
        return LeftToRight(words)
    except ImportError:
        return None


def _percentile(values: Sequence[float], share: float) -> float:
    return float(np.percentile(values, share)) if values else float("nan")


def _print(rows: Sequence[Row], figures: dict[str, float]) -> None:
    table = Table("figure", "value", "bar")
    for name, value in figures.items():
        bar = BARS.get(name)
        missed = bar is not None and value > bar
        table.add_row(name, f"{value:.3g}", "" if bar is None else f"<= {bar:g}", style="red" if missed else None)
    console = Console()
    console.print(table)
    sizes = [
        f"{int(_percentile([float(n) for n in size], p)):,}"
        for size in ([r.states for r in rows], [r.edges for r in rows])
        for p in (50, 95, 100)
    ]
    console.print(
        f"{len(rows)} schemas; states p50 {sizes[0]}, p95 {sizes[1]}, max {sizes[2]}; edges {', '.join(sizes[3:])}"
    )
    answers, checked = sum(row.answers for row in rows), sum(row.left_to_check for row in rows)
    console.print(f"{answers:,} answers from noise; {checked:,} fail a keyword that is left to the final check")
    for row in rows:
        for text in row.invalid[:1]:
            console.print(f"{row.id}: invalid: {text[:200]!r}", style="red", markup=False)
    _print_greedy([(row, row.greedy) for row in rows if row.greedy is not None])


def _print_greedy(pairs: Sequence[tuple[Row, Greedy]]) -> None:
    """Left to right on the same logits."""
    if not pairs:
        print("llguidance is not installed (extra `bench`) or refused every schema")
        return
    closed = [(row, greedy) for row, greedy in pairs if greedy.is_closed]
    ours = sum(row.best_logprob > -np.inf for row, _ in pairs)
    print(
        f"left to right (llguidance), same logits, {len(pairs)} schemas it accepts: closed within {CANVAS} tokens "
        f"{len(closed)}, best path {ours}; grammar {_percentile([g.compile_ms for _, g in pairs], 50):.2f} ms p50, "
        f"decoding {_percentile([g.ms for _, g in pairs], 50):.1f} ms p50 in "
        f"{_percentile([float(len(g.ids)) for _, g in pairs], 50):.0f} passes of the net, best path in 1"
    )
    if closed:
        gain = [row.best_logprob - greedy.logprob for row, greedy in closed]
        print(f"where both close, the best path is likelier by {_percentile(gain, 50):.1f} nats (p50)")


if __name__ == "__main__":
    sys.exit(main())
