"""POST /v1/chat/completions as raw ASGI: parse, render, submit, relay what the engine publishes.

Headers leave with the first sealed block, not before: until then an error still has a status of its own, afterwards it
is the last event of the stream. A client that leaves, at any point, aborts its sequence.
"""

import asyncio
import math
import secrets
import time
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.types import Receive, Scope, Send

from diffusion_worker.engine import Ticket
from diffusion_worker.errors import WorkerError
from diffusion_worker.records import Ask, BlockSealed, Faulted, Finished, Reading
from diffusion_worker.text.channels import Heard, Wanted
from diffusion_worker.text.chat_template import Abilities
from diffusion_worker.web.answers import DONE, Chunks, Label, completion, diffusion_body, event, usage_body
from diffusion_worker.web.asks import Given, ask_of
from diffusion_worker.web.desk import Desk, Words
from diffusion_worker.web.exchange import JSON, header, read_body, send_whole, unless_gone
from diffusion_worker.web.openai import ChatRequest, parse_chat
from diffusion_worker.web.problems import InvalidValue, problem_of
from diffusion_worker.web.transcript import Transcript

DEADLINE_HEADER = "x-twolane-deadline-ms"
_LARGE_BYTES = 64 * 1024  # reading and tokenizing more than this would hold up the event loop
_STREAM_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A request understood: what to ask the engine, and how its answer is to be written."""

    request: ChatRequest
    reading: Reading
    words: Words
    ask: Ask


class ChatCompletions:
    """The endpoint. Raises what `problems` knows how to write, as long as nothing has left."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        deadline_ms = _deadline_ms(header(scope, DEADLINE_HEADER.encode()))
        body = await read_body(scope, receive, self._desk.max_body_bytes)
        if len(body) > _LARGE_BYTES:
            order = await asyncio.to_thread(self._understand, body, deadline_ms)
        else:
            order = self._understand(body, deadline_ms)
        await unless_gone(receive, self._relay(order, self._reply(order, send)))

    def _understand(self, body: bytes, deadline_ms: float | None) -> Order:
        # Before the weights are there nobody knows what they can do: then the refusal is theirs, not a field's.
        request = parse_chat(body, self._desk.abilities or Abilities(tools=True, thinking=True))
        reading = self._desk.reading_of(request.model)
        words, facts = self._desk.resident()
        given = Given(
            prompt_ids=words.template.prompt_ids(request.messages, request.tools.offered, thinking=request.thinking),
            prediction_ids=words.tokenizer.encode_plain(request.prediction or ""),
            reading=reading,
            seed=secrets.randbits(63),
            deadline_ms=deadline_ms,
        )
        return Order(request=request, reading=reading, words=words, ask=ask_of(request, given, facts))

    def _reply(self, order: Order, send: Send) -> "Reply":
        label = Label(
            id=f"{Label.PREFIX}{secrets.token_hex(12)}", model=self._desk.id_of(order.reading), created=int(time.time())
        )
        if order.request.is_stream:
            return Stream(send, label, order.request.include_usage)
        return Whole(send, label)

    async def _relay(self, order: Order, reply: "Reply") -> None:
        request, ask = order.request, order.ask
        wanted = Wanted(stops=request.stops, calls=bool(request.tools.offered), most_calls=request.tools.most_calls)
        transcript = Transcript(order.words.tokenizer, wanted, ask.prompt_ids, prediction=ask.start_ids)
        async with self._desk.engine.submit(order.ask) as ticket:
            try:
                finished = await _follow(ticket, transcript, reply)
            except WorkerError as error:
                await reply.fail(error)
                return
        heard = transcript.close(finished)
        await reply.finish(heard, transcript.finish_reason(finished), transcript)


class Reply(Protocol):
    """How an answer leaves."""

    async def add(self, heard: Heard) -> None:
        """What is final."""

    async def finish(self, heard: Heard, reason: str, transcript: Transcript) -> None:
        """What comes last, and the account."""

    async def fail(self, error: WorkerError) -> None:
        """There will be no (more) answer. Raises the error where it can still have a status."""


class Whole:
    """Everything at once."""

    def __init__(self, send: Send, label: Label) -> None:
        self._send, self._label = send, label
        self._heard: list[Heard] = []

    async def add(self, heard: Heard) -> None:
        self._heard.append(heard)

    async def finish(self, heard: Heard, reason: str, transcript: Transcript) -> None:
        body = completion(self._label, [*self._heard, heard], reason, _usage(transcript))
        await send_whole(self._send, 200, (JSON,), body)

    async def fail(self, error: WorkerError) -> None:
        raise error


class Stream:
    """Server-sent events. The headers are the point of no return."""

    def __init__(self, send: Send, label: Label, include_usage: bool) -> None:
        self._send = send
        self._chunks = Chunks(label, include_usage)
        self._include_usage = include_usage
        self._headers_sent = False

    async def add(self, heard: Heard) -> None:
        if not self._headers_sent:
            self._headers_sent = True
            await self._send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
            await self._write(self._chunks.role())
        if events := self._chunks.heard(heard):
            await self._write(events)

    async def finish(self, heard: Heard, reason: str, transcript: Transcript) -> None:
        await self.add(heard)
        last = [self._chunks.finish(reason, diffusion_body(transcript.account()))]
        if self._include_usage:
            last.append(self._chunks.usage(_usage(transcript)))
        await self._write(b"".join([*last, DONE]), more=False)

    async def fail(self, error: WorkerError) -> None:
        """Inside a stream an error is an event, and no [DONE] follows: the answer is not whole."""
        if not self._headers_sent:
            raise error
        await self._write(event(problem_of(error).body), more=False)

    async def _write(self, part: bytes, *, more: bool = True) -> None:
        await self._send({"type": "http.response.body", "body": part, "more_body": more})


async def _follow(ticket: Ticket, transcript: Transcript, reply: Reply) -> Finished | None:
    """Relay blocks until the end; None when a stop string ended the answer. Raises the error of a fault."""
    async for happened in ticket:
        match happened:
            case BlockSealed():
                await reply.add(transcript.take(happened))
                if transcript.stopped:
                    ticket.stop()
                    return None
            case Finished():
                return happened
            case Faulted(error=error):
                raise error
    raise AssertionError("a sequence ends in Finished or Faulted")


def _usage(transcript: Transcript) -> dict[str, Any]:
    return usage_body(
        transcript.account(),
        accepted_prediction_tokens=transcript.accepted_prediction_tokens,
        reasoning_tokens=transcript.reasoning_tokens,
    )


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
