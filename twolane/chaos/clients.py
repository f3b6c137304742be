"""The clients of a chaos run: they send requests as applications do, retry as the official client does, and check the
responses."""

import asyncio
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import jsonschema

from twolane.bench.load import OK, LoadOptions, Sample, open_session, send
from twolane.bench.plan import Call, Prompt, poisson
from twolane.demo.prompts import AS_ORDER, ORDER_SCHEMA, SHORT

MAX_ATTEMPTS: Final = 3  # the official client retries twice
PAUSE_S: Final = 0.5
TIMEOUT_S: Final = 30.0  # above every deadline of the policy
WRONG_RESPONSE: Final = "wrong_response"
_NAMES: Final = ("anna", "ben", "carla", "dora", "emil")
_ITEMS: Final = ("red lamp", "white clock", "blue chair", "green box")
_SUBJECTS: Final = ("Fixed brokn token in api", "adding missing test for cli", "Updated the docs of cache")
_VALIDATOR: Final = jsonschema.Draft202012Validator(ORDER_SCHEMA)


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


async def run_clients(
    urls: Sequence[str], rate: float, seconds: float, seed: int, on_result: Callable[[RequestResult], None]
) -> None:
    """Send `rate` requests per second, and return when all have completed."""
    rng = random.Random(seed)  # noqa: S311 - a load, not a secret
    calls = [Call(due_s=due_s, prompt=_prompt(rng)) for due_s in poisson(rate, seconds, seed)]
    loop = asyncio.get_running_loop()
    begin_s = loop.time()
    options = LoadOptions(url=urls[0], timeout_s=TIMEOUT_S)
    async with open_session(options) as session, asyncio.TaskGroup() as group:

        async def one(number: int, call: Call) -> None:
            of_this = replace(options, stream=number % 2 == 0)
            trace = f"{rng.getrandbits(128) | 1:032x}"
            first, attempt = OK, 0
            for attempt in range(1, MAX_ATTEMPTS + 1):
                url = urls[(number + attempt) % len(urls)]
                headers = {"traceparent": f"00-{trace}-{attempt:016x}-00"}
                sample = await send(session, call, replace(of_this, url=url), begin_s=begin_s, headers=headers)
                sample = replace(sample, outcome=checked_outcome(sample))
                first = sample.outcome if attempt == 1 else first
                if sample.outcome == OK:
                    break
                await asyncio.sleep(PAUSE_S * attempt)
            on_result(_result(trace, sample, attempt, first))

        for number, call in enumerate(calls):
            await asyncio.sleep(begin_s + call.due_s - loop.time())
            group.create_task(one(number, call))


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
