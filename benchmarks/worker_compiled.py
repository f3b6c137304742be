"""Compiled canvas passes beside transformers' `generate()` with its static cache, which it compiles.

Both complete the same single requests on the same weights, in turns, after both have completed all of them once.
Figures are ratios of processor time, so that other work on the machine changes them little. Each compiled graph takes
about a minute of a CPU, so the library gets requests for which it compiles once: they fit into its first cache.
"""

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import torch
from torch._dynamo.utils import counters

from benchmarks.gpu.models import build, config
from diffusion_worker.engine.loop import run
from diffusion_worker.models.diffusion_gemma import DiffusionGemmaModel
from diffusion_worker.types.requests import GenerationRequest

REQUESTS: Final = 8
ROUNDS: Final = 3
MIXED_REQUESTS: Final = 200
ROWS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """Results for one model."""

    ratio: float  # processor time of ours over that of `generate()`
    ours_ms: float  # per request
    theirs_ms: float
    graphs: int  # compiled for the mixed requests, after the single ones and a first mixed batch
    graph_breaks: int


def small_experts() -> DiffusionGemmaModel:
    """A random fp32 model with four experts per layer."""
    return build(config(is_small=True), torch.float32, torch.device("cpu"))


def random_requests(model: DiffusionGemmaModel, count: int) -> list[GenerationRequest]:
    """Requests with prompts of 8 to 90 tokens and answers of one or two canvases."""
    info, dice = model.info, random.Random(1)
    denoising = replace(info.denoising, steps=8, stability=64)
    return [
        GenerationRequest(
            prompt_ids=tuple(dice.randrange(6, info.vocab_size) for _ in range(dice.randint(8, 90))),
            max_tokens=info.denoising.canvas_length * dice.randint(1, 2),
            seed=seed,
            denoising=denoising,
        )
        for seed in range(count)
    ]


def compare(model: DiffusionGemmaModel, requests: Sequence[GenerationRequest]) -> Compiled:
    """Compile the passes of a model, and compare them with its own `generate()`."""
    model.compile()
    single = sorted(requests[:REQUESTS], key=lambda each: len(each.prompt_ids) + each.max_tokens, reverse=True)
    pairs = [(partial(run, model, [request], max_num_seqs=1), partial(_generate, model, request)) for request in single]
    ours_ms, theirs_ms = in_turns(pairs, rounds=ROUNDS)
    run(model, requests[: 4 * ROWS], max_num_seqs=ROWS)
    before = _graphs()
    run(model, requests, max_num_seqs=ROWS)
    return Compiled(
        ratio=ours_ms / theirs_ms,
        ours_ms=ours_ms,
        theirs_ms=theirs_ms,
        graphs=_graphs() - before,
        graph_breaks=counters["graph_break"].total(),
    )


def in_turns(
    pairs: Sequence[tuple[Callable[[], object], Callable[[], object]]],
    *,
    rounds: int,
    clock: Callable[[], float] = time.process_time,
) -> tuple[float, float]:
    """Median processor time in ms of the first and the second call of all pairs, in turns; a first round warms up."""
    taken: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        for pair in pairs:
            for call, times in zip(pair, taken, strict=True):
                started = clock()
                call()
                if number:
                    times.append(1000 * (clock() - started))
    return statistics.median(taken[0]), statistics.median(taken[1])


def _graphs() -> int:
    return counters["stats"]["unique_graphs"]


def _generate(model: DiffusionGemmaModel, request: GenerationRequest) -> None:
    library: Any = model._model
    denoising = request.denoising
    torch.manual_seed(request.seed)
    library.generate(
        torch.tensor([request.prompt_ids]),
        max_new_tokens=request.max_tokens,
        max_denoising_steps=denoising.steps,
        stability_threshold=denoising.stability,
        confidence_threshold=denoising.confidence_threshold,
        cache_implementation="static",
    )
