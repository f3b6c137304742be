"""Benchmark of label probabilities: `python -m benchmarks.labels [--check] [--json FILE]`.

Uses held-out orders of the extraction task: all fields except one are given, and the labels are the remaining possible
answers. It measures the accuracy of the most likely label (two passes) and of denoising within the same set, the log
loss of the probabilities in nats, and the canvas passes of denoising.
"""

import argparse
import json
import random
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.vocabularies import SHIPPED, shipped
from diffusion_worker.constraints.compile import compile_constraint
from diffusion_worker.constraints.inference.labels import compile_labels, index_tokens
from diffusion_worker.constraints.inference.matcher import open_matcher
from diffusion_worker.constraints.spec import Constraint
from diffusion_worker.constraints.tokens.compilation import compile_tokens
from diffusion_worker.constraints.tokens.vocabulary_bytes import make_vocabulary_bytes
from diffusion_worker.engine.loop import Capacity, Loop, run
from diffusion_worker.models.interface import DiffusionModel
from diffusion_worker.models.loader import LoadOptions, load
from diffusion_worker.types.events import BlockSealed
from diffusion_worker.types.requests import DecodingMode, GenerationRequest
from training.requests import request_for, text_of
from training.tasks.orders import order
from training.tasks.sample import Sample, SampleSpec
from training.word_lists import DAYS, NAMES

FIELDS: Final[dict[str, tuple[Any, ...]]] = {
    "day": (None, *DAYS),
    "qty": tuple(range(1, 31)),
    "name": (None, *NAMES[:20]),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Results for one field and one vocabulary. The log loss is a mean in nats; passes are those of denoising."""

    field: str
    words: str
    count: int
    labels: int  # mean per sample
    right: int
    log_loss: float
    denoised: int  # correct answers of denoising
    denoised_passes: float


def measure(model: DiffusionModel, field: str, *, invented: bool, count: int, seed: int = 5) -> Row:
    """Measure samples for which every possible answer fits on one canvas."""
    rng = random.Random(seed)
    sets: list[tuple[Sample, list[str]]] = []
    while len(sets) < count:
        sample = order(rng, SampleSpec(split="test", invented=float(invented)))
        if max(map(len, answers := _answers(sample, field))) < model.info.denoising.canvas_length:
            sets.append((sample, answers))
    requests = [
        request_for(model, sample, DecodingMode.DIFFUSION, seed=place) for place, (sample, _) in enumerate(sets)
    ]
    weighed = [_weighed(model, request, answers) for request, (_, answers) in zip(requests, sets, strict=True)]
    truths = [answers.index(sample.answer) for sample, answers in sets]
    denoised = run(model, [_within(request, answers) for request, (_, answers) in zip(requests, sets, strict=True)])
    return Row(
        field=field,
        words="invented" if invented else "known",
        count=count,
        labels=round(statistics.fmean(len(answers) for _, answers in sets)),
        right=sum(max(found) == found[truth] for found, truth in zip(weighed, truths, strict=True)),
        log_loss=-statistics.fmean(found[truth] for found, truth in zip(weighed, truths, strict=True)),
        denoised=sum(text_of(answer) == sample.answer for answer, (sample, _) in zip(denoised, sets, strict=True)),
        denoised_passes=statistics.fmean(answer.end.usage.denoising_steps for answer in denoised),
    )


def main() -> int:
    """Command line; returns 1 if `--check` finds labels correct less often than denoising."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="number of samples per row")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a result is below its bar")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    model = load(str(SHIPPED), LoadOptions(threads=1))
    rows = [
        measure(model, field, invented=invented, count=options.count) for field in FIELDS for invented in (False, True)
    ]
    table = Table(
        "field", "words", "samples", "labels", "correct with labels", "log loss", "correct by denoising", "passes"
    )
    for row in rows:
        counts = (row.count, row.labels, row.right, f"{row.log_loss:.4f}", row.denoised, f"{row.denoised_passes:.1f}")
        table.add_row(row.field, row.words, *map(str, counts))
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    return int(options.check and any(row.right < row.denoised for row in rows))


def _answers(sample: Sample, field: str) -> list[str]:
    """The correct answer and its alternatives, as the task writes them."""
    truth = json.loads(sample.answer)
    values = dict.fromkeys((*FIELDS[field], truth[field]))
    return [json.dumps({**truth, field: value}, separators=(",", ":")) for value in values]


def _weighed(model: DiffusionModel, request: GenerationRequest, answers: Sequence[str]) -> tuple[float, ...]:
    words = shipped()
    spellings = index_tokens(make_vocabulary_bytes(words.tokens, (words.end_id,), words.padding_id))
    labels = compile_labels([[answer] for answer in answers], spellings)
    loop = Loop(model, Capacity(max_num_seqs=1, max_context=len(request.prompt_ids) + request.max_tokens))
    loop.add(replace(request, labels=labels))
    while loop.scheduler.has_work:
        for _, event in loop.step():
            if isinstance(event, BlockSealed):
                return event.labels
    raise AssertionError("a request with labels seals one canvas")


def _within(request: GenerationRequest, answers: Sequence[str]) -> GenerationRequest:
    compiled = compile_constraint(Constraint(kind="choice", value=list(answers)))
    automaton = compile_tokens(compiled.automaton, shipped().read())
    assert automaton is not None
    return replace(request, matcher=open_matcher(automaton, request.max_tokens))


if __name__ == "__main__":
    sys.exit(main())
