"""What a constraint costs beside a pass of the embedded checkpoint: one canvas of 64 over 272 tokens, one thread."""

import itertools
import statistics
import time
from dataclasses import dataclass, replace
from typing import Final

from benchmarks.constraints_steps import Noise, step_ms
from benchmarks.vocabularies import SHIPPED, shipped
from benchmarks.worker_requests import WatchedNet, ask_for, samples
from diffusion_worker.constraints.compile import compile_schema
from diffusion_worker.constraints.lift import lift
from diffusion_worker.loop import Capacity, Loop
from diffusion_worker.nets.interface import DiffusionNet
from diffusion_worker.nets.loader import LoadOptions, load
from twolane.tour_prompts import ORDER_SCHEMA

STEPS: Final = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """In ms; `step` is a best path, marginals and a joint sample together."""

    forward: float
    best: float
    step: float


def measure() -> Embedded:
    """One row of the checkpoint, and its constraint."""
    net = load(str(SHIPPED), LoadOptions(threads=1))
    automaton = lift(compile_schema(ORDER_SCHEMA).automaton, shipped().read())
    assert automaton is not None
    noise = Noise(canvas=net.facts.recipe.canvas_length, vocab=len(automaton.classes.order), seed=0)
    ours = step_ms(automaton, noise.canvas_of(3.0))
    return Embedded(forward=_forward_ms(net), best=ours.best, step=ours.marginals + ours.sample)


def _forward_ms(net: DiffusionNet) -> float:
    """The net's part of a step with one row: the median over steps of a canvas that never settles, in thread time."""
    watched = WatchedNet(net, time.thread_time)
    ask = ask_for(samples(1)[0], replace(net.facts.recipe, steps=STEPS, stability=64))
    loop = Loop(watched, Capacity(max_num_seqs=1, max_context=len(ask.prompt_ids) + ask.max_tokens))
    loop.add(ask)
    spent = [watched.seconds]
    while len(spent) < STEPS:
        loop.turn()
        spent.append(watched.seconds)
    return 1000 * statistics.median(after - before for before, after in itertools.pairwise(spent))
