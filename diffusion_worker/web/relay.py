"""A generating endpoint as raw ASGI: read the request, submit, relay what the engine publishes. Both dialects share it.

Headers leave with the first text that is final, not before: until then an error still has a status of its own,
afterwards it is the last event of the stream. What has left never changes. A client that leaves, at any point, aborts
its sequence.
"""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.types import Receive, Scope, Send

from diffusion_worker.errors import WorkerError
from diffusion_worker.records import Ask, BlockSealed, CanvasDrafted, Faulted, Finished, PrefixSteady
from diffusion_worker.text.channels import Heard
from diffusion_worker.ticket import Ticket
from diffusion_worker.web.desk import Desk
from diffusion_worker.web.exchange import JSON, header, read_body, send_whole, unless_gone
from diffusion_worker.web.problems import InvalidValue, problem_of
from diffusion_worker.web.transcript import Transcript
from diffusion_worker.web.writer import DONE, Details, Writer, diffusion_body, event, usage_body

DEADLINE_HEADER = "x-twolane-deadline-ms"
_LARGE_BYTES = 64 * 1024  # reading and tokenizing more than this would hold up the event loop
_STREAM_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A request understood: what to ask the engine, how its answer is to be read, and how it is to be written."""

    ask: Ask
    transcript: Transcript
    writer: Writer
    is_stream: bool
    include_usage: bool


# A dialect: body and deadline in its header (milliseconds) to an order. Raises a BadAsk, or NotResident.
Understand = Callable[[Desk, bytes, float | None], Order]


class Endpoint:
    """One dialect's endpoint. Raises what `problems` knows how to write, as long as nothing has left."""

    def __init__(self, desk: Desk, understand: Understand) -> None:
        self._desk, self._understand = desk, understand

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        deadline_ms = _deadline_ms(header(scope, DEADLINE_HEADER.encode()))
        body = await read_body(scope, receive, self._desk.max_body_bytes)
        if len(body) > _LARGE_BYTES:
            order = await asyncio.to_thread(self._understand, self._desk, body, deadline_ms)
        else:
            order = self._understand(self._desk, body, deadline_ms)
        reply = Stream(send, order) if order.is_stream else Whole(send, order)
        await unless_gone(receive, self._relay(order, reply))

    async def _relay(self, order: Order, reply: "Reply") -> None:
        async with self._desk.engine.submit(order.ask) as ticket:
            try:
                finished = await _follow(ticket, order.transcript, reply)
            except WorkerError as error:
                await reply.fail(error)
                return
        heard = order.transcript.close(finished)
        await reply.finish(heard, order.transcript.finish_reason(finished))


class Reply(Protocol):
    """How an answer leaves."""

    async def add(self, heard: Heard) -> None:
        """What is final."""

    async def draft(self, drafted: CanvasDrafted) -> None:
        """What is not."""

    async def finish(self, heard: Heard, reason: str) -> None:
        """What comes last, and the account."""

    async def fail(self, error: WorkerError) -> None:
        """There will be no (more) answer. Raises the error where it can still have a status."""


class Whole:
    """Everything at once."""

    def __init__(self, send: Send, order: Order) -> None:
        self._send, self._order = send, order
        self._heard: list[Heard] = []

    async def add(self, heard: Heard) -> None:
        self._heard.append(heard)

    async def draft(self, drafted: CanvasDrafted) -> None:
        raise AssertionError(f"only a stream asks for drafts, and this is none: block {drafted.block}")

    async def finish(self, heard: Heard, reason: str) -> None:
        body = self._order.writer.whole([*self._heard, heard], reason, _usage(self._order))
        await send_whole(self._send, 200, (JSON,), body)

    async def fail(self, error: WorkerError) -> None:
        raise error


class Stream:
    """Server-sent events. The headers are the point of no return."""

    def __init__(self, send: Send, order: Order) -> None:
        self._send, self._order = send, order
        self._writer = order.writer
        self._headers_sent = False

    async def add(self, heard: Heard) -> None:
        await self._write(self._writer.part(heard))

    async def draft(self, drafted: CanvasDrafted) -> None:
        text = self._order.transcript.sketch(drafted.ids)
        await self._write(self._writer.draft({"draft": text, "block": drafted.block, "step": drafted.step}))

    async def finish(self, heard: Heard, reason: str) -> None:
        await self.add(heard)
        last = [self._writer.finish(reason, diffusion_body(self._order.transcript.account()))]
        if self._order.include_usage:
            last.append(self._writer.usage(_usage(self._order)))
        await self._write(b"".join([*last, DONE]), more=False)

    async def fail(self, error: WorkerError) -> None:
        """Inside a stream an error is an event, and no [DONE] follows: the answer is not whole."""
        if not self._headers_sent:
            raise error
        await self._write(event(problem_of(error).body), more=False)

    async def _write(self, part: bytes, *, more: bool = True) -> None:
        if not self._headers_sent:
            self._headers_sent = True
            await self._send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
            part = self._writer.opening() + part
        if part or not more:
            await self._send({"type": "http.response.body", "body": part, "more_body": more})


async def _follow(ticket: Ticket, transcript: Transcript, reply: Reply) -> Finished | None:
    """Relay what happens until the end; None when a stop string ended the answer. Raises the error of a fault."""
    async for happened in ticket:
        match happened:
            case BlockSealed() | PrefixSteady():
                await reply.add(transcript.take(happened))
                if transcript.stopped:
                    ticket.stop()
                    return None
            case CanvasDrafted():
                await reply.draft(happened)
            case Finished():
                return happened
            case Faulted(error=error):
                raise error
    raise AssertionError("a sequence ends in Finished or Faulted")


def _usage(order: Order) -> dict[str, Any]:
    accepted = order.transcript.accepted_prediction_tokens
    details = Details(
        accepted_prediction_tokens=accepted,
        rejected_prediction_tokens=len(order.ask.start_ids) - accepted,
        reasoning_tokens=order.transcript.reasoning_tokens,
    )
    return usage_body(order.transcript.account(), details)


def _deadline_ms(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 <= value < math.inf:
        raise InvalidValue(f"{DEADLINE_HEADER} must be a number of milliseconds, not {text!r}.", param=DEADLINE_HEADER)
    return value
