"""The clients of a chaos run: they send requests as applications do, retry as the official client does, and check the
responses."""

import asyncio
import itertools
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import jsonschema

from twolane.bench.load import OK, LoadOptions, Sample, open_session, send
from twolane.bench.plan import Call, Prompt
from twolane.demo.prompts import AS_ORDER, ORDER_SCHEMA, SHORT

MAX_ATTEMPTS: Final = 3  # the official client retries twice
PAUSE_S: Final = 0.5
WRONG_RESPONSE: Final = "wrong_response"
_NAMES: Final = ("anna", "ben", "carla", "dora", "emil")
_ITEMS: Final = ("red lamp", "white clock", "blue chair", "green box")
_SUBJECTS: Final = ("Fixed brokn token in api", "adding missing test for cli", "Updated the docs of cache")
_VALIDATOR: Final = jsonschema.Draft202012Validator(ORDER_SCHEMA)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    """The load: URLs of the gateways, mean requests per second, most requests at once (further ones wait, as in a pool
    of connections), the time limit of one attempt in seconds, and the seed."""

    urls: Sequence[str]
    rate: float
    in_flight: int
    timeout_s: float
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestResult:
    """The result of one request. `outcome` is OK, or the error of the last attempt."""

    trace: str  # shared by all attempts, and logged by the gateways
    due_s: float
    latency_s: float
    outcome: str
    attempts: int
    first_outcome: str
    fallback: str | None
    target: str | None

    @property
    def succeeded(self) -> bool:
        """Whether it got a correct response."""
        return self.outcome == OK


async def run_clients(options: ClientOptions, ended: asyncio.Event, on_result: Callable[[RequestResult], None]) -> None:
    """Send requests until `ended` is set, and return when all have completed."""
    rng = random.Random(options.seed)  # noqa: S311 - a load, not a secret
    loop = asyncio.get_running_loop()
    begin_s, limit = loop.time(), asyncio.Semaphore(options.in_flight)
    load = LoadOptions(url=options.urls[0], timeout_s=options.timeout_s)
    async with open_session(load) as session, asyncio.TaskGroup() as group:

        async def one(number: int, call: Call, trace: str) -> None:
            of_this = replace(load, stream=number % 2 == 0)
            first, attempt = OK, 0
            for attempt in range(1, MAX_ATTEMPTS + 1):
                url = options.urls[(number + attempt) % len(options.urls)]
                headers = {"traceparent": f"00-{trace}-{attempt:016x}-00"}
                sample = await send(session, call, replace(of_this, url=url), begin_s=begin_s, headers=headers)
                sample = replace(sample, outcome=checked_outcome(sample))
                first = sample.outcome if attempt == 1 else first
                if sample.outcome == OK:
                    break
                await asyncio.sleep(PAUSE_S * attempt)
            limit.release()
            on_result(_result(trace, sample, attempt, first))

        for number in itertools.count():
            await asyncio.sleep(rng.expovariate(options.rate))
            await limit.acquire()
            if ended.is_set():
                return
            call = Call(due_s=loop.time() - begin_s, prompt=_prompt(rng))
            group.create_task(one(number, call, f"{rng.getrandbits(128) | 1:032x}"))


def checked_outcome(sample: Sample) -> str:
    """Return the outcome, WRONG_RESPONSE for an order that is not valid or a subject that is empty."""
    if sample.outcome != OK:
        return sample.outcome
    if sample.call.prompt.schema is None:
        return OK if sample.text.strip() else WRONG_RESPONSE
    try:
        return OK if _VALIDATOR.is_valid(json.loads(sample.text)) else WRONG_RESPONSE
    except ValueError:
        return WRONG_RESPONSE


def _result(trace: str, sample: Sample, attempts: int, first: str) -> RequestResult:
    return RequestResult(
        trace=trace,
        due_s=sample.call.due_s,
        latency_s=sample.latency_s,
        outcome=sample.outcome,
        attempts=attempts,
        first_outcome=first,
        fallback=sample.headers.get("fallback"),
        target=sample.headers.get("target"),
    )


def _prompt(rng: random.Random) -> Prompt:
    if rng.random() < 0.6:
        order = f"i need {rng.randint(2, 30)} {rng.choice(_ITEMS)} for {rng.choice(_NAMES)} on monday"
        return Prompt(body=_body(f"Extract the order as JSON: hi, {order}", AS_ORDER))
    return Prompt(body=_body(f"Clean up this commit subject: {rng.choice(_SUBJECTS)}", SHORT))


def _body(text: str, more: Mapping[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **more}
