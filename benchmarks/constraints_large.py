"""Measures what a constrained row costs at the vocabulary of the released checkpoint: 262,144 tokens, 256 positions.

On an accelerator the logits are reduced there, and the host infers from scores of classes: `host`. On a CPU a row also
reads its logits: `row` is all that `denoise.constrain` does for a row with a temperature of its own, and is compared
with a softmax of the same logits in numpy. `several` compares four rows on two cores with one. Times are CPU times, so
that other work on the machine has little effect: what threads wait for each other's lock is not seen.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch

from benchmarks.constraints_steps import Noise, softmax, thread_ms
from benchmarks.constraints_tables import percentile
from benchmarks.vocabularies import Words
from diffusion_worker.constraints.compile import compile_constraint
from diffusion_worker.constraints.inference.class_inference import infer
from diffusion_worker.constraints.inference.class_reduction import LogitReducer, class_layout_of
from diffusion_worker.constraints.inference.matcher import Matcher, open_matcher
from diffusion_worker.constraints.inference.native import NATIVE
from diffusion_worker.constraints.spec import Constraint
from diffusion_worker.constraints.tokens.compilation import compile_tokens
from diffusion_worker.denoise.constrain import constrain
from diffusion_worker.denoise.score import CanvasLogits, Large, Scores
from diffusion_worker.errors import InvalidRequest
from diffusion_worker.types.requests import DenoisingParams
from diffusion_worker.types.step_batch import Denoise

CANVAS: Final = 256
ANNEALING, TEMPERATURE = 0.8, 0.7
SEVERAL: Final = 4  # rows in a step
EVERY: Final = 4  # schemas per measurement of several rows


@dataclass(frozen=True, slots=True, kw_only=True)
class LargeRow:
    """One schema; ms."""

    id: str
    states: int
    edges: int
    softmax: float
    host: float  # best path, marginals and sample from scores of classes
    host_with_temperature: float  # the same, sampled at a temperature of its own
    row: float  # everything on a CPU, at a temperature of its own
    several: float | None  # SEVERAL rows on two cores relative to one


def measure_large(
    file: Path, words: Words, *, limit: int | None, every: int = 1, kept: Path | None = None
) -> Iterator[LargeRow]:
    """Measure the schemas of a file that compile, or every so many of them, on one thread. Rows are appended to `kept`
    (JSON lines), and those that it has are not measured again: all schemas take hours."""
    known = {row.id: row for row in _read(kept)}
    vocabulary = words.read()
    noise = Noise(canvas=CANVAS, vocab=vocabulary.size, seed=0)
    for number, line in enumerate(file.read_text().splitlines()[:limit:every]):
        document = json.loads(line)
        if document["id"] in known:
            yield known[document["id"]]
            continue
        try:
            compiled = compile_constraint(Constraint(kind="json_schema", value=document["schema"]))
        except InvalidRequest:
            continue
        automaton = compile_tokens(compiled.automaton, vocabulary)
        assert automaton is not None, f"{document['id']}: no token sequence spells an answer"
        row = _measured(document["id"], open_matcher(automaton, 1_000_000), noise, is_several=number % EVERY == 0)
        if kept is not None:
            with kept.open("a") as appended:
                appended.write(json.dumps(asdict(row)) + "\n")
        yield row


def _read(kept: Path | None) -> list[LargeRow]:
    if kept is None or not kept.exists():
        return []
    return [LargeRow(**json.loads(line)) for line in kept.read_text().splitlines()]


@torch.inference_mode()
def _measured(name: str, matcher: Matcher, noise: Noise, *, is_several: bool) -> LargeRow:
    logits, uniforms = noise.canvas_of(3.0), noise.uniforms()
    plain, warm = (_reduced(matcher, logits, temperature) for temperature in (1.0, TEMPERATURE))
    infer(matcher, plain.scores, uniforms)  # what is built once per constraint
    step = _Step(matcher, torch.from_numpy(logits)[None])
    step.run()
    return LargeRow(
        id=name,
        states=matcher.automaton.states,
        edges=matcher.automaton.edges,
        softmax=thread_ms(lambda: softmax(logits))[0],
        host=thread_ms(lambda: infer(matcher, plain.scores, uniforms))[0],
        host_with_temperature=thread_ms(lambda: infer(matcher, warm.scores, uniforms))[0],
        row=thread_ms(step.run)[0],
        several=_several(matcher, noise) if is_several else None,
    )


def _reduced(matcher: Matcher, logits: np.ndarray, temperature: float) -> LogitReducer:
    reducer = LogitReducer(class_layout_of(matcher.automaton.token_sets), len(logits), temperature)
    assert reducer.read(0, logits), "logits are finite"
    return reducer


class _Step:
    """The constraints of a step over logits [rows, canvas, vocab]. The rest of the step's scores is not used."""

    def __init__(self, matcher: Matcher, raw: torch.Tensor) -> None:
        rows = len(raw)
        zeros = torch.zeros(raw.shape[:2])
        ids = torch.zeros(raw.shape[:2], dtype=torch.long)
        logits = CanvasLogits(raw=raw, cap=0.0, temperature=torch.full((rows,), ANNEALING))
        self._scores = Scores(
            logits=logits,
            kept=Large(top=zeros, total=zeros, sampled=ids),
            **dict.fromkeys(("normaliser", "entropy", "likeliest", "logprob"), zeros),
            surest=ids,
        )
        self._ids, self._uniforms = ids, torch.rand(raw.shape[:2], generator=torch.Generator().manual_seed(0))
        denoising = DenoisingParams(canvas_length=CANVAS)
        self._items = [
            Denoise(
                sequence=row,
                slot=row,
                at=0,
                block=0,
                step=1,
                opens=False,
                seed=row,
                denoising=denoising,
                temperature=TEMPERATURE,
                matcher=matcher,
            )
            for row in range(rows)
        ]

    def run(self) -> None:
        constrain(self._items, self._scores, self._ids, lambda: self._uniforms)


def _several(matcher: Matcher, noise: Noise) -> float:
    """Rows that begin at different positions of the noise, on two threads, relative to one row on one thread; the
    shortest of interleaved runs."""
    rows = torch.from_numpy(noise.all_of())
    shift = CANVAS // SEVERAL
    raw = rows.as_strided((SEVERAL, CANVAS, rows.shape[1]), (shift * rows.shape[1], rows.shape[1], 1))
    steps, threads = (_Step(matcher, raw[:1]), _Step(matcher, raw)), torch.get_num_threads()
    try:
        times = np.array([[_on_threads(step.run, count) for count, step in enumerate(steps, 1)] for _ in "ab"])
    finally:
        torch.set_num_threads(threads)
    one, several = times.min(axis=0)
    return float(several / one)


def _on_threads(work: Callable[[], None], threads: int) -> float:
    """The CPU time of this thread, in which others wait, and an equal share of that of the others."""
    torch.set_num_threads(threads)
    started, own = time.process_time(), time.thread_time()
    work()
    own = time.thread_time() - own
    return own + max(time.process_time() - started - own, 0.0) / threads


def large_figures(rows: Sequence[LargeRow]) -> dict[str, float]:
    """Figures over all schemas; none where nothing was compiled, because numpy's are others."""
    if NATIVE is None:
        return {}
    measured = {
        "262k: host, {}, ms": [row.host for row in rows],
        "262k: host with a temperature, {}, ms": [row.host_with_temperature for row in rows],
        "262k: row on a CPU, {}, x softmax": [row.row / row.softmax for row in rows],
    }
    figures = {
        name.format(f"p{share}"): percentile(values, share) for name, values in measured.items() for share in (50, 95)
    }
    several = [row.several for row in rows if row.several is not None]
    return figures | {"262k: four rows on two cores, p50, x one": percentile(several, 50)}
