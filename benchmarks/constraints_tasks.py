"""Measures order extraction under a schema by one model in several ways: correct answers, forward passes, time.

One request at a time, in thread CPU time: on a canvas with and without the schema, and left to right with our automaton
and with llguidance. `benchmarks.constraints_answers` uses enough samples to compare accuracy.
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from benchmarks.left_to_right import LeftToRight, OfModel
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
class Method:
    """One way of answering requests: which answers were correct, and the mean passes (including the prompt's) and
    ms."""

    name: str
    verdicts: tuple[bool, ...]
    passes: float
    ms: float


def methods(guided: LeftToRight | None, count: int) -> list[Method]:
    """All ways over the same requests; without llguidance, all except the last."""
    model = InstrumentedModel(load(str(SHIPPED), LoadOptions(threads=1)))
    automaton = compile_tokens(compile_schema(SCHEMA).automaton, shipped().read())
    assert automaton is not None
    rng = random.Random(SEED)
    samples = [order(rng, SampleSpec(split="test", invented=1.0)) for _ in range(count)]

    def requests(decoding_mode: DecodingMode, *, is_kept: bool) -> Iterator[GenerationRequest]:
        for seed, sample in enumerate(samples):
            request = request_for(model, sample, decoding_mode, seed=seed)
            yield replace(request, matcher=open_matcher(automaton, request.max_tokens)) if is_kept else request

    answers = [sample.answer for sample in samples]
    found = [
        _measure_method(FREE, model, list(requests(DecodingMode.DIFFUSION, is_kept=False)), answers, _by_us(model)),
        _measure_method(KEPT, model, list(requests(DecodingMode.DIFFUSION, is_kept=True)), answers, _by_us(model)),
        _measure_method(
            "left to right, our automaton",
            model,
            list(requests(DecodingMode.AUTOREGRESSIVE, is_kept=True)),
            answers,
            _by_us(model),
        ),
    ]
    if guided is not None:
        by_guided = _by_guided(model, guided)
        plain = list(requests(DecodingMode.AUTOREGRESSIVE, is_kept=False))
        found.append(_measure_method("left to right, llguidance", model, plain, answers, by_guided))
    return found


def _measure_method(
    name: str,
    model: InstrumentedModel,
    requests: Sequence[GenerationRequest],
    answers: Sequence[str],
    answer: Callable[[GenerationRequest], str],
) -> Method:
    answer(requests[0])  # warm-up: objects that are built once are not measured
    passes, started = model.passes, time.thread_time()
    texts = [answer(request) for request in requests]
    count = len(requests)
    return Method(
        name=name,
        verdicts=tuple(text == right for text, right in zip(texts, answers, strict=True)),
        passes=(model.passes - passes) / count,
        ms=1000 * (time.thread_time() - started) / count,
    )


def _by_us(model: DiffusionModel) -> Callable[[GenerationRequest], str]:
    return lambda request: text_of(run(model, [request])[0])


def _by_guided(model: DiffusionModel, guided: LeftToRight) -> Callable[[GenerationRequest], str]:
    def answer(request: GenerationRequest) -> str:
        greedy = guided.decode(SCHEMA, OfModel(model, request))
        assert greedy is not None, "llguidance refuses the schema"
        return decode_ids(list(greedy.ids))

    return answer
