"""An open-loop load generator: every request is sent at its scheduled time, whatever happened to earlier ones.

Latency counts from the scheduled time, not from the time of sending, so that requests delayed by a stalled server count
as slow (Tene, "How NOT to measure latency": coordinated omission). Reads the OpenAI API and the gateway's headers.
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
CONNECTION_CLOSED: Final = "connection_closed"
TIMED_OUT: Final = "timed_out"
INVALID_RESPONSE: Final = "invalid_response"
_HEADERS: Final = ("target", "route", "fallback", "attempts")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """How to send requests. `url` is without /v1; `max_in_flight` None: no limit. A request that the limit delays keeps
    its scheduled time."""

    url: str
    model: str = "auto"
    stream: bool = False
    timeout_s: float = 60.0
    max_in_flight: int | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The result of one call, in seconds since the start of the load. `outcome` is OK, an error code of the API,
    `http_NNN` or a constant of this module; `headers` holds x-twolane-* by its last part (target, route, ...)."""

    call: Call
    sent_s: float
    ended_s: float
    first_s: float | None
    outcome: str
    text: str = ""
    tokens: int | None = None
    confidence: float | None = None  # as a worker reports it
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def latency_s(self) -> float:
        """From the scheduled time to the end."""
        return self.ended_s - self.call.due_s

    @property
    def first_token_s(self) -> float | None:
        """From the scheduled time to the first text of a stream."""
        return None if self.first_s is None else self.first_s - self.call.due_s


class ResponseError(Exception):
    """A response that is an error; `code` is the outcome."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


async def run(calls: Sequence[Call], options: LoadOptions, *, on_result: Callable[[Sample], None]) -> None:
    """Send every call at its time and pass each result to `on_result`. Cancelling closes all open requests."""
    loop = asyncio.get_running_loop()
    limit = asyncio.Semaphore(options.max_in_flight or len(calls) or 1)
    async with open_session(options) as session, asyncio.TaskGroup() as group:
        begin_s = loop.time()

        async def one(call: Call) -> None:
            async with limit:
                on_result(await send(session, call, options, begin_s=begin_s))

        for call in sorted(calls, key=lambda call: call.due_s):
            await asyncio.sleep(begin_s + call.due_s - loop.time())
            group.create_task(one(call))


def open_session(options: LoadOptions) -> aiohttp.ClientSession:
    """Return a client without a connection limit, which would delay requests unnoticed."""
    headers = {"authorization": f"Bearer {options.key}"} if options.key else {}
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=options.timeout_s),
        headers=headers,
    )


async def send(
    session: aiohttp.ClientSession,
    call: Call,
    options: LoadOptions,
    *,
    begin_s: float,
    headers: Mapping[str, str] | None = None,
) -> Sample:
    """Send one request and read its whole response. Raises only CancelledError."""
    loop = asyncio.get_running_loop()
    body = {"model": options.model, **call.prompt.body, "stream": options.stream}
    if options.stream:
        body["stream_options"] = {"include_usage": True}
    received = _Received()
    sent_s = loop.time() - begin_s
    try:
        async with session.post(f"{options.url}/v1/chat/completions", json=body, headers=headers) as response:
            received.headers = {
                name: value for name in _HEADERS if (value := response.headers.get(f"x-twolane-{name}"))
            }
            if response.status != 200:
                raise ResponseError(_code(await response.read(), response.status))
            async for text in _texts(response, received):
                if text and received.first_at is None:
                    received.first_at = loop.time()
                received.text += text
        outcome = OK
    except ResponseError as error:
        outcome = error.code
    except TimeoutError:
        outcome = TIMED_OUT
    except aiohttp.ClientConnectorError:
        outcome = NO_CONNECTION
    except (aiohttp.ClientError, OSError):
        outcome = CONNECTION_CLOSED
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        outcome = INVALID_RESPONSE
    return Sample(
        call=call,
        sent_s=sent_s,
        first_s=None if received.first_at is None or not options.stream else received.first_at - begin_s,
        ended_s=loop.time() - begin_s,
        outcome=outcome,
        text=received.text,
        tokens=received.tokens,
        confidence=received.confidence,
        headers=MappingProxyType(received.headers),
    )


@dataclass(slots=True)
class _Received:
    """The part of a response received so far."""

    text: str = ""
    first_at: float | None = None
    tokens: int | None = None
    confidence: float | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def take(self, usage: Mapping[str, Any] | None) -> None:
        """Keep what a usage object reports."""
        if usage:
            self.tokens = usage.get("completion_tokens", self.tokens)
            self.confidence = (usage.get("diffusion") or {}).get("confidence", self.confidence)


async def _texts(response: aiohttp.ClientResponse, received: _Received) -> AsyncIterator[str]:
    """Yield the pieces of a response. Raises ResponseError for a stream without an end or with an error."""
    if not response.content_type.startswith("text/event-stream"):
        whole = json.loads(await response.read())
        received.take(whole.get("usage"))
        yield _content(whole["choices"][0]["message"])
        return
    async for line in response.content:
        data = line.removeprefix(b"data:").strip()
        if not line.startswith(b"data:"):
            continue
        if data == b"[DONE]":
            return
        chunk = json.loads(data)
        if "error" in chunk:
            raise ResponseError(_code(data, 200))
        received.take(chunk.get("usage"))
        for choice in chunk.get("choices", ())[:1]:
            yield _content(choice["delta"])
    raise ResponseError(CONNECTION_CLOSED)


def _content(message: Mapping[str, Any]) -> str:
    """Return the text of a message, followed by the arguments of its tool calls."""
    calls = message.get("tool_calls") or ()
    return (message.get("content") or "") + "".join(call["function"].get("arguments") or "" for call in calls)


def _code(body: bytes, status: int) -> str:
    try:
        error = json.loads(body)["error"]
        return str(error.get("code") or error.get("type") or f"http_{status}")
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"http_{status}"
