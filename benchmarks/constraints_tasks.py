"""Orders to extract within their schema, by one net in several ways: right answers, passes of the net, time.

One request at a time, in thread time: the canvas free and within the schema, and left to right with our automaton and
with llguidance. (With rows enough for figures about accuracy alone: `benchmarks.constraints_answers`.)
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from benchmarks.left_to_right import LeftToRight, OfNet
from benchmarks.vocabularies import SHIPPED, shipped
from benchmarks.worker_requests import InstrumentedModel
from diffusion_worker.constraints.compile import compile_schema
from diffusion_worker.constraints.inference.matcher import open_matcher
from diffusion_worker.constraints.tokens.compilation import compile_tokens
from diffusion_worker.engine.loop import run
from diffusion_worker.models.interface import DiffusionModel
from diffusion_worker.models.loader import LoadOptions, load
from diffusion_worker.types.requests import DecodingMode, GenerationRequest
from training.requests import request_for, text_of
from training.tasks.orders import SCHEMA, order
from training.tasks.sample import SampleSpec
from training.vocabulary import decode_ids

SEED: Final = 7
FREE: Final = "canvas, free"
KEPT: Final = "canvas, within the schema"


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to answer requests: which answers were right; means of passes, the prompt's among them, and of ms."""

    name: str
    verdicts: tuple[bool, ...]
    passes: float
    ms: float


def ways(guided: LeftToRight | None, count: int) -> list[Way]:
    """All of them over the same requests; without llguidance, all but the last."""
    net = InstrumentedModel(load(str(SHIPPED), LoadOptions(threads=1)))
    automaton = compile_tokens(compile_schema(SCHEMA).automaton, shipped().read())
    assert automaton is not None
    rng = random.Random(SEED)
    samples = [order(rng, SampleSpec(split="test", invented=1.0)) for _ in range(count)]

    def asks(decoding_mode: DecodingMode, *, is_kept: bool) -> Iterator[GenerationRequest]:
        for seed, sample in enumerate(samples):
            ask = request_for(net, sample, decoding_mode, seed=seed)
            yield replace(ask, matcher=open_matcher(automaton, ask.max_tokens)) if is_kept else ask

    answers = [sample.answer for sample in samples]
    found = [
        _way(FREE, net, list(asks(DecodingMode.DIFFUSION, is_kept=False)), answers, _by_us(net)),
        _way(KEPT, net, list(asks(DecodingMode.DIFFUSION, is_kept=True)), answers, _by_us(net)),
        _way(
            "left to right, our automaton",
            net,
            list(asks(DecodingMode.AUTOREGRESSIVE, is_kept=True)),
            answers,
            _by_us(net),
        ),
    ]
    if guided is not None:
        by_guided = _by_guided(net, guided)
        plain = list(asks(DecodingMode.AUTOREGRESSIVE, is_kept=False))
        found.append(_way("left to right, llguidance", net, plain, answers, by_guided))
    return found


def _way(
    name: str,
    net: InstrumentedModel,
    asks: Sequence[GenerationRequest],
    answers: Sequence[str],
    answer: Callable[[GenerationRequest], str],
) -> Way:
    answer(asks[0])  # what is made once is not what is measured
    passes, started = net.passes, time.thread_time()
    texts = [answer(ask) for ask in asks]
    count = len(asks)
    return Way(
        name=name,
        verdicts=tuple(text == right for text, right in zip(texts, answers, strict=True)),
        passes=(net.passes - passes) / count,
        ms=1000 * (time.thread_time() - started) / count,
    )


def _by_us(net: DiffusionModel) -> Callable[[GenerationRequest], str]:
    return lambda ask: text_of(run(net, [ask])[0])


def _by_guided(net: DiffusionModel, guided: LeftToRight) -> Callable[[GenerationRequest], str]:
    def answer(ask: GenerationRequest) -> str:
        greedy = guided.decode(SCHEMA, OfNet(net, ask))
        assert greedy is not None, "llguidance refuses the schema"
        return decode_ids(list(greedy.ids))

    return answer
