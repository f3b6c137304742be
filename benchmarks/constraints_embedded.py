"""Measures the cost of a constraint relative to a pass of the embedded checkpoint, on one thread: canvases of 64
positions over 272 tokens.

First the constraint engine's part of a step, compared with a pass of one row; then whole steps of the serving loop, in
which some of the rows are constrained.
"""

import itertools
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from benchmarks.constraints_steps import Noise, step_ms
from benchmarks.vocabularies import SHIPPED, shipped
from benchmarks.worker_requests import InstrumentedModel, request_for, samples
from diffusion_worker.constraints.compile import compile_schema
from diffusion_worker.constraints.inference.matcher import open_matcher
from diffusion_worker.constraints.tokens.compilation import compile_tokens
from diffusion_worker.constraints.tokens.token_automaton import TokenAutomaton
from diffusion_worker.engine.loop import Capacity, Loop
from diffusion_worker.models.interface import DiffusionModel
from diffusion_worker.models.loader import LoadOptions, load
from diffusion_worker.types.observations import Observation, StepObserved
from diffusion_worker.types.requests import GenerationRequest
from twolane.demo.prompts import ORDER_SCHEMA

STEPS: Final = 40
WARM_UP: Final = 4  # warm-up steps, which prefill prompts and fill caches
ROWS: Final = 4
CONSTRAINED: Final = (0, 2, 4)  # of them


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedStep:
    """Medians in ms of a step with ROWS rows, and of the constraint engine's part of it."""

    constrained: int
    ms: float
    constraint_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """Times in ms; `step` is the sum of a best path, marginals and a joint sample."""

    forward: float
    best: float
    step: float
    mixed: tuple[MixedStep, ...] = ()


def measure() -> Embedded:
    """Measure one row of the checkpoint and its constraint, then several rows together."""
    model = load(str(SHIPPED), LoadOptions(threads=1))
    automaton = compile_tokens(compile_schema(ORDER_SCHEMA).automaton, shipped().read())
    assert automaton is not None
    noise = Noise(canvas=model.info.denoising.canvas_length, vocab=len(automaton.token_sets.order), seed=0)
    ours = step_ms(automaton, noise.canvas_of(3.0))
    return Embedded(
        forward=_forward_ms(model),
        best=ours.best,
        step=ours.marginals + ours.sample,
        mixed=_mixed(model, automaton),
    )


def _forward_ms(model: DiffusionModel) -> float:
    """The model's part of a step with one row: the median over steps of a canvas that never converges, in thread CPU
    time."""
    watched = InstrumentedModel(model, time.thread_time)
    request = _endless(model)
    loop = Loop(watched, Capacity(max_num_seqs=1, max_context=len(request.prompt_ids) + request.max_tokens))
    loop.add(request)
    spent = [watched.seconds]
    while len(spent) < STEPS:
        loop.step()
        spent.append(watched.seconds)
    return 1000 * statistics.median(after - before for before, after in itertools.pairwise(spent))


def _mixed(model: DiffusionModel, automaton: TokenAutomaton) -> tuple[MixedStep, ...]:
    """Loops with increasing numbers of constrained rows alternate, so that noise affects all alike."""
    seen: dict[int, list[Observation]] = {count: [] for count in CONSTRAINED}
    request = _endless(model)
    loops = []
    for count, observations in seen.items():
        loop = Loop(
            model,
            Capacity(max_num_seqs=ROWS, max_context=len(request.prompt_ids) + request.max_tokens),
            observations.append,
        )
        for row in range(ROWS):
            matcher = open_matcher(automaton, request.max_tokens) if row < count else None
            loop.add(replace(request, seed=row, matcher=matcher))
        loops.append(loop)
    for loop in itertools.chain.from_iterable(itertools.repeat(loops, STEPS - 1)):
        loop.step()
    return tuple(_median(count, observations) for count, observations in seen.items())


def _median(count: int, observations: Sequence[Observation]) -> MixedStep:
    steps = [each for each in observations if isinstance(each, StepObserved) and each.rows == ROWS][WARM_UP:]
    return MixedStep(
        constrained=count,
        ms=1000 * statistics.median(step.seconds for step in steps),
        constraint_ms=1000 * statistics.median(step.constraint_s for step in steps),
    )


def _endless(model: DiffusionModel) -> GenerationRequest:
    """A canvas that does not converge during the measurement."""
    return request_for(samples(1)[0], replace(model.info.denoising, steps=STEPS, stability=64))
