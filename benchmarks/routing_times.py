"""The time that the gateway needs to classify a request: by its words, in C where that is built and in Python, and with
all stages.

Microseconds of CPU time of single calls in this thread, so that other programs on a busy machine do not count. Garbage
is collected as in the gateway. No two calls see the same text: paragraphs and functions of packages that no training
text comes from are drawn anew, so words recur as they do in real traffic, and texts do not.
"""

import gc
import json
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Final

from gateway.classifier.compiled import IS_BUILT
from gateway.classifier.forms import FORM_STAGES
from gateway.classifier.model import LearnedStage, TaskModel
from gateway.routing.classify import STAGES, EvidenceStage, classify
from gateway.types import Query
from training.classifier.materials import HELD_OUT, Materials

_BYTES: Final = 4096
_MEGABYTE: Final = 1_000_000
_SYSTEM_BYTES: Final = 2048


def time_classifier(model: TaskModel, calls: int = 600, large_calls: int = 120) -> dict[str, list[float]]:
    """The times of the trained stage by implementation: `calls` for each of five shapes of 4 KB, which are prose,
    fenced code, Chinese, JSON, and a follow-up with a system prompt; as `..._all_stages`, the same of the whole
    classifier; as `..._megabyte`, `large_calls` of it for a message of a megabyte."""
    learned = {"python": LearnedStage(model, is_compiled=False)}
    if IS_BUILT:
        learned["compiled"] = LearnedStage(model, is_compiled=True)
    times: dict[str, list[float]] = {}
    for name, stage in learned.items():
        every = partial(classify, stages=(*STAGES, *FORM_STAGES, stage))
        with _collecting_as_the_gateway():
            times[name] = [_time_us(stage, query) for number in range(calls) for query in _queries(number)]
            times[f"{name}_all_stages"] = [
                _time_us(every, query) for number in range(calls) for query in _queries(number)
            ]
            times[f"{name}_megabyte"] = [_time_us(every, _large_query(number)) for number in range(large_calls)]
    return times


@contextmanager
def _collecting_as_the_gateway() -> Iterator[None]:
    """Collect garbage as seldom as `gateway.app` does: some collections would fall into a call. What the caller has
    frozen stays frozen, or else each of its later collections would traverse every module."""
    before, is_first = gc.get_threshold(), gc.get_freeze_count() == 0
    gc.collect()
    gc.freeze()
    gc.set_threshold(25_000, 20, 50)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        if is_first:
            gc.unfreeze()


def _time_us(timed: EvidenceStage, query: Query) -> float:
    started = time.thread_time_ns()
    timed(query)
    return (time.thread_time_ns() - started) / 1000


def _queries(number: int) -> list[Query]:
    rng = random.Random(number)
    prose = _filled(rng, _materials().paragraphs, _BYTES)
    code = _filled(rng, _materials().functions, _BYTES)
    records = [{"id": rng.randrange(10_000), "name": word, "tags": ["a", "b"]} for word in prose.split()[:120]]
    texts = (
        f"Could this be a little shorter?\n\n{prose}",
        f"Rename n{number} to count.\n```python\n{code}",
        f"请把第{number}段改短一些，语气更客气一点。" + "我们于上周三收到了贵公司的报价单，其中单价与合同不符。" * 200,
        json.dumps(records)[: _BYTES - 40] + "\nturn the ids into strings",
    )
    turn = _query(
        "shorter, and mention the date",
        system_text=f"You are the assistant of a small company. Use these notes.\n\n{prose[:_SYSTEM_BYTES]}",
        earlier_text=f"Write a mail to the landlord about the heating in flat {number}.",
        answer_text=prose[-1000:],
    )
    found = [*(_query(text[:_BYTES]) for text in texts), turn]
    return found[number % 5 :] + found[: number % 5]  # the first finds the processor's caches full of other things


def _large_query(number: int) -> Query:
    text = _filled(random.Random(number), _materials().paragraphs, _BYTES)
    return _query(f"Could this be a little shorter?\n\n{text * (_MEGABYTE // len(text))}")


def _filled(rng: random.Random, pieces: Sequence[str], size: int) -> str:
    found = rng.choice(pieces)
    while len(found) < size:
        found = f"{found}\n\n{rng.choice(pieces)}"
    return found


@cache
def _materials() -> Materials:
    return Materials(HELD_OUT)


def _query(text: str, **given: str) -> Query:
    return Query(request_id="", model="auto", body=b"", received_s=0.0, last_user_text=text, **given)  # type: ignore[arg-type]
