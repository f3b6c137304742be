"""The clients of a chaos run: they ask as applications do, try again as the official client does, and judge answers.

Knows two gateways and nothing behind them.
"""

import asyncio
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import jsonschema

from twolane.bench.load import OK, Manner, Sample, ask, connection
from twolane.bench.plan import Call, Prompt, poisson
from twolane.demo.prompts import AS_ORDER, ORDER_SCHEMA, SHORT

TRIES: Final = 3  # the official client retries twice
PAUSE_S: Final = 0.5
TIMEOUT_S: Final = 30.0  # over every deadline of the policy
WRONG: Final = "wrong_answer"
_NAMES: Final = ("anna", "ben", "carla", "dora", "emil")
_ITEMS: Final = ("red lamp", "white clock", "blue chair", "green box")
_SLOPPY: Final = ("Fixed brokn token in api", "adding missing test for cli", "Updated the docs of cache")
_JUDGE: Final = jsonschema.Draft202012Validator(ORDER_SCHEMA)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """One request, at its end. `outcome`: OK, or why not even the last try was an answer."""

    trace: str  # that all its tries are part of: gateways write it down
    due_s: float
    latency_s: float
    outcome: str
    tries: int
    first_outcome: str
    fallback: str | None
    target: str | None

    @property
    def is_good(self) -> bool:
        """Whether it got its answer."""
        return self.outcome == OK


async def clients(urls: Sequence[str], rate: float, seconds: float, seed: int, heard: Callable[[Ended], None]) -> None:
    """Ask `rate` times a second for so many seconds; returns when all have ended, each of them once."""
    draw = random.Random(seed)  # noqa: S311 - a load, not a secret
    calls = [Call(due_s=due_s, prompt=_prompt(draw)) for due_s in poisson(rate, seconds, seed)]
    events = asyncio.get_running_loop()
    begin_s = events.time()
    manner = Manner(url=urls[0], timeout_s=TIMEOUT_S)
    async with connection(manner) as session, asyncio.TaskGroup() as group:

        async def one(number: int, call: Call) -> None:
            streams = replace(manner, stream=number % 2 == 0)
            trace = f"{draw.getrandbits(128) | 1:032x}"
            first, tries = OK, 0
            for tries in range(1, TRIES + 1):
                url = urls[(number + tries) % len(urls)]
                headers = {"traceparent": f"00-{trace}-{tries:016x}-00"}
                sample = await ask(session, call, replace(streams, url=url), begin_s=begin_s, headers=headers)
                sample = replace(sample, outcome=judged(sample))
                first = sample.outcome if tries == 1 else first
                if sample.outcome == OK:
                    break
                await asyncio.sleep(PAUSE_S * tries)
            heard(_ended(trace, sample, tries, first))

        for number, call in enumerate(calls):
            await asyncio.sleep(begin_s + call.due_s - events.time())
            group.create_task(one(number, call))


def judged(sample: Sample) -> str:
    """The outcome, unless the answer is none: an order has to be one, a subject has to be there."""
    if sample.outcome != OK:
        return sample.outcome
    if sample.call.prompt.schema is None:
        return OK if sample.text.strip() else WRONG
    try:
        return OK if _JUDGE.is_valid(json.loads(sample.text)) else WRONG
    except ValueError:
        return WRONG


def _ended(trace: str, sample: Sample, tries: int, first: str) -> Ended:
    return Ended(
        trace=trace,
        due_s=sample.call.due_s,
        latency_s=sample.latency_s,
        outcome=sample.outcome,
        tries=tries,
        first_outcome=first,
        fallback=sample.told.get("fallback"),
        target=sample.told.get("target"),
    )


def _prompt(draw: random.Random) -> Prompt:
    if draw.random() < 0.6:
        said = f"i need {draw.randint(2, 30)} {draw.choice(_ITEMS)} for {draw.choice(_NAMES)} on monday"
        return Prompt(body=_body(f"Extract the order as JSON: hi, {said}", AS_ORDER))
    return Prompt(body=_body(f"Clean up this commit subject: {draw.choice(_SLOPPY)}", SHORT))


def _body(text: str, more: Mapping[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **more}
