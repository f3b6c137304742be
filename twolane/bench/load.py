"""An open-loop load: every request leaves when it is due, whatever has become of those before it.

Latency counts from the moment a request was due, not from when it was sent: a server that stands still makes all who
would have come meanwhile wait, and they count (Tene, "How NOT to measure latency": coordinated omission). Knows the
OpenAI wire and the gateway's headers; judges no answer.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import aiohttp

from twolane.bench.plan import Call

OK: Final = "ok"
NO_CONNECTION: Final = "no_connection"
CUT_OFF: Final = "cut_off"
TIMED_OUT: Final = "timed_out"
NOT_UNDERSTOOD: Final = "not_understood"
_TOLD: Final = ("target", "route", "fallback", "attempts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How to ask: the root of the endpoint (without /v1), the model, whether to stream, when to give up (seconds), and
    how many may be under way (None: any number; who is held back keeps its due moment)."""

    url: str
    model: str = "auto"
    stream: bool = False
    timeout_s: float = 60.0
    most_in_flight: int | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What became of one call, in seconds since the load began. `outcome` is OK, an error code of the wire, `http_NNN`
    or a word of this module; `told` what the gateway's headers say (target, route, fallback, attempts)."""

    call: Call
    sent_s: float
    ended_s: float
    first_s: float | None
    outcome: str
    text: str = ""
    tokens: int | None = None
    told: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def latency_s(self) -> float:
        """From when it was due to its end."""
        return self.ended_s - self.call.due_s

    @property
    def first_token_s(self) -> float | None:
        """From when it was due to the first text of a stream."""
        return None if self.first_s is None else self.first_s - self.call.due_s


class RefusedError(Exception):
    """An answer that is none; `code` says why."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


async def run(calls: Sequence[Call], manner: Manner, *, heard: Callable[[Sample], None]) -> None:
    """Send every call when it is due and tell `heard` of each end. Cancelled, it hangs up on all that are under way."""
    events = asyncio.get_running_loop()
    gate = asyncio.Semaphore(manner.most_in_flight or len(calls) or 1)
    async with connection(manner) as session, asyncio.TaskGroup() as group:
        begin_s = events.time()

        async def one(call: Call) -> None:
            async with gate:
                heard(await ask(session, call, manner, begin_s=begin_s))

        for call in sorted(calls, key=lambda call: call.due_s):
            await asyncio.sleep(begin_s + call.due_s - events.time())
            group.create_task(one(call))


def connection(manner: Manner) -> aiohttp.ClientSession:
    """A client without a limit of its own: a limit would hold requests back unseen."""
    headers = {"authorization": f"Bearer {manner.key}"} if manner.key else {}
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=manner.timeout_s),
        headers=headers,
    )


async def ask(
    session: aiohttp.ClientSession,
    call: Call,
    manner: Manner,
    *,
    begin_s: float,
    headers: Mapping[str, str] | None = None,
) -> Sample:
    """Send one request and hear it out. Raises nothing but CancelledError."""
    events = asyncio.get_running_loop()
    body = {"model": manner.model, **call.prompt.body, "stream": manner.stream}
    if manner.stream:
        body["stream_options"] = {"include_usage": True}
    answer = _Answer()
    sent_s = events.time() - begin_s
    try:
        async with session.post(f"{manner.url}/v1/chat/completions", json=body, headers=headers) as response:
            answer.told = {word: value for word in _TOLD if (value := response.headers.get(f"x-twolane-{word}"))}
            if response.status != 200:
                raise RefusedError(_code(await response.read(), response.status))
            async for text in _texts(response, answer):
                if text and answer.first_at is None:
                    answer.first_at = events.time()
                answer.text += text
        outcome = OK
    except RefusedError as refusal:
        outcome = refusal.code
    except TimeoutError:
        outcome = TIMED_OUT
    except aiohttp.ClientConnectorError:
        outcome = NO_CONNECTION
    except (aiohttp.ClientError, OSError):
        outcome = CUT_OFF
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        outcome = NOT_UNDERSTOOD
    return Sample(
        call=call,
        sent_s=sent_s,
        first_s=None if answer.first_at is None or not manner.stream else answer.first_at - begin_s,
        ended_s=events.time() - begin_s,
        outcome=outcome,
        text=answer.text,
        tokens=answer.tokens,
        told=MappingProxyType(answer.told),
    )


@dataclass(slots=True)
class _Answer:
    """What has been heard so far."""

    text: str = ""
    first_at: float | None = None
    tokens: int | None = None
    told: dict[str, str] = field(default_factory=dict)


async def _texts(response: aiohttp.ClientResponse, answer: _Answer) -> AsyncIterator[str]:
    """The pieces of an answer; a stream without an end is RefusedError as cut off."""
    if not response.content_type.startswith("text/event-stream"):
        whole = json.loads(await response.read())
        answer.tokens = (whole.get("usage") or {}).get("completion_tokens")
        yield _said(whole["choices"][0]["message"])
        return
    async for line in response.content:
        data = line.removeprefix(b"data:").strip()
        if not line.startswith(b"data:"):
            continue
        if data == b"[DONE]":
            return
        chunk = json.loads(data)
        if "error" in chunk:
            raise RefusedError(_code(data, 200))
        answer.tokens = (chunk.get("usage") or {}).get("completion_tokens", answer.tokens)
        for choice in chunk.get("choices", ())[:1]:
            yield _said(choice["delta"])
    raise RefusedError(CUT_OFF)


def _said(message: Mapping[str, Any]) -> str:
    """The text, or the arguments of the calls in its place."""
    calls = message.get("tool_calls") or ()
    return (message.get("content") or "") + "".join(call["function"].get("arguments") or "" for call in calls)


def _code(body: bytes, status: int) -> str:
    try:
        error = json.loads(body)["error"]
        return str(error.get("code") or error.get("type") or f"http_{status}")
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"http_{status}"
