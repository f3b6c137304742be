"""A generating endpoint as raw ASGI: read the request, submit, relay what the engine publishes. Both dialects share it.

Headers leave with the first text that is final, not before: until then an error still has a status of its own,
afterwards it is the last event of the stream. What has left never changes. A client that leaves, at any point, aborts
its sequence.
"""

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from starlette.types import Receive, Scope, Send

from diffusion_worker.constraint_service.service import BoundConstraint
from diffusion_worker.constraints.compiled import NO_PREFIX, TokenPrefixes
from diffusion_worker.constraints.inference.matcher import open_matcher
from diffusion_worker.constraints.schema.validation import tool_answer_text
from diffusion_worker.constraints.spec import Constraint
from diffusion_worker.engine.output_stream import OutputStream
from diffusion_worker.errors import InvalidOutput, WorkerError
from diffusion_worker.text.channels import ChannelOutput
from diffusion_worker.types.events import BlockSealed, CanvasDrafted, Faulted, Finished, PrefixStable
from diffusion_worker.types.requests import GenerationRequest
from diffusion_worker.web.constraint_repair import InvalidResponse, ResponseRepairer
from diffusion_worker.web.error_body import InvalidValue, problem_of
from diffusion_worker.web.http_io import JSON, header, read_body, send_whole, unless_gone
from diffusion_worker.web.label_logprobs import Layouts
from diffusion_worker.web.request_log import RequestLog, request_log_of
from diffusion_worker.web.response_builder import ResponseBuilder
from diffusion_worker.web.response_parts import DONE, Details, Writer, diffusion_body, event, usage_body
from diffusion_worker.web.serving_state import ServingState

DEADLINE_HEADER = "x-twolane-deadline-ms"
MOST_ATTEMPTS = 6  # at an answer that breaks what its automaton cannot see
_LARGE_BYTES = 64 * 1024  # reading and tokenizing more than this would hold up the event loop
_STREAM_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRequest:
    """A request understood: what to ask the engine, how its answer is to be read, and how it is to be written."""

    generation: GenerationRequest
    builder: ResponseBuilder
    writer: Writer
    is_stream: bool
    include_usage: bool
    constraint: Constraint | None = None  # not bound yet
    headers: TokenPrefixes = NO_PREFIX  # ids that may stand before a constrained text
    layouts: Layouts = ()  # the labels that the constraint leaves, where their probabilities are wanted
    request_log: RequestLog | None = None  # who is told what came of it
    kept: tuple[int, ...] = ()  # ids that the answer begins with, from an attempt before


# A dialect: body and deadline in its header (milliseconds) to an order. Raises a InvalidRequest, or NotResident.
PrepareRequest = Callable[[ServingState, bytes, float | None], PreparedRequest]


class Endpoint:
    """One dialect's endpoint. Raises what `problems` knows how to write, as long as nothing has left."""

    def __init__(self, serving_state: ServingState, understand: PrepareRequest) -> None:
        self._state, self._understand = serving_state, understand

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        with request_log_of(scope, self._state.tracing) as request_log:
            prepared = replace(await self._read(scope, receive), request_log=request_log)
            model = self._state.id_of(prepared.generation.decoding_mode)
            if timeline := request_log.begin(prepared.generation, model=model, is_stream=prepared.is_stream):
                prepared = replace(prepared, generation=replace(prepared.generation, timeline=timeline))
            await unless_gone(receive, self._answer(prepared, send))

    async def _read(self, scope: Scope, receive: Receive) -> PreparedRequest:
        deadline_ms = _deadline_ms(header(scope, DEADLINE_HEADER.encode()))
        body = await read_body(scope, receive, self._state.max_body_bytes)
        if len(body) > _LARGE_BYTES:
            return await asyncio.to_thread(self._understand, self._state, body, deadline_ms)
        return self._understand(self._state, body, deadline_ms)

    async def _answer(self, prepared: PreparedRequest, send: Send) -> None:
        """Bind what constrains the answer, then relay it: as it comes, or, where somebody must judge the whole of it,
        as soon as it is found good."""
        if prepared.layouts:
            prepared = await self._with_labels(prepared)
        if prepared.constraint is None:
            await self._relay(prepared, _reply(prepared, send))
            return
        started, (words, info) = time.monotonic(), self._state.resident()
        bound = await self._state.constraint_service.bind(prepared.constraint, words.tokenizer, info, prepared.headers)
        matcher = open_matcher(bound.automaton, prepared.generation.max_tokens)
        prepared = replace(prepared, generation=replace(prepared.generation, matcher=matcher))
        if prepared.is_stream and not bound.needs_check:
            await self._relay(prepared, _reply(prepared, send))
            return
        generation = replace(
            _with_time(prepared.generation, time.monotonic() - started), stream_prefix=False, stream_drafts=False
        )
        await self._judged(replace(prepared, generation=generation), bound, send)

    async def _judged(self, prepared: PreparedRequest, bound: BoundConstraint, send: Send) -> None:
        """Try until an answer is found good. Raises InvalidOutput."""
        started, repairer = (
            time.monotonic(),
            ResponseRepairer(generation=prepared.generation, tokenizer=self._state.resident()[0].tokenizer),
        )
        for attempt in range(1, MOST_ATTEMPTS + 1):
            held = BufferedReply(_reply(prepared, send), prepared, bound)
            await self._relay(prepared, held)
            if held.broken is None:
                return
            mend = repairer.mend(held.broken, attempt) if attempt < MOST_ATTEMPTS else None
            if mend is None:
                raise InvalidOutput(f"the answer breaks its constraint: {held.broken.violation}")
            generation = _with_time(mend.generation, time.monotonic() - started)
            prepared = replace(prepared, generation=generation, kept=mend.kept, builder=prepared.builder.restarted())

    async def _with_labels(self, prepared: PreparedRequest) -> PreparedRequest:
        """Every label keeps to the constraint, so it need not be bound."""
        words, info = self._state.resident()
        field = None if prepared.constraint is None else prepared.constraint.field
        labels = await self._state.constraint_service.labels(prepared.layouts, field, words.tokenizer, info)
        labels.check_length(min(prepared.generation.max_tokens, prepared.generation.denoising.canvas_length), field)
        return replace(prepared, generation=replace(prepared.generation, labels=labels), constraint=None)

    async def _relay(self, prepared: PreparedRequest, reply: "Reply") -> None:
        async with self._state.engine.submit(prepared.generation) as output_stream:
            try:
                if prepared.kept:
                    await reply.add(prepared.builder.keep(prepared.kept))
                finished = await _follow(output_stream, prepared.builder, reply)
            except WorkerError as error:
                if prepared.request_log:
                    prepared.request_log.error = error.code
                await reply.fail(error)
                return
            finally:
                if prepared.request_log:
                    prepared.request_log.usage = prepared.builder.usage
        output = prepared.builder.close(finished)
        await reply.finish(output, prepared.builder.finish_reason(finished))


class Reply(Protocol):
    """How an answer leaves."""

    async def add(self, output: ChannelOutput) -> None:
        """What is final."""

    async def draft(self, drafted: CanvasDrafted) -> None:
        """What is not."""

    async def finish(self, output: ChannelOutput, reason: str) -> None:
        """What comes last, and the account."""

    async def fail(self, error: WorkerError) -> None:
        """There will be no (more) answer. Raises the error where it can still have a status."""


class WholeReply:
    """Everything at once."""

    def __init__(self, send: Send, prepared: PreparedRequest) -> None:
        self._send, self._prepared = send, prepared
        self._outputs: list[ChannelOutput] = []

    async def add(self, output: ChannelOutput) -> None:
        self._outputs.append(output)

    async def draft(self, drafted: CanvasDrafted) -> None:
        raise AssertionError(f"only a stream asks for drafts, and this is none: block {drafted.block}")

    async def finish(self, output: ChannelOutput, reason: str) -> None:
        body = self._prepared.writer.whole([*self._outputs, output], reason, _usage(self._prepared))
        await send_whole(self._send, 200, (JSON,), body)

    async def fail(self, error: WorkerError) -> None:
        raise error


class Stream:
    """Server-sent events. The headers are the point of no return."""

    def __init__(self, send: Send, prepared: PreparedRequest) -> None:
        self._send, self._prepared = send, prepared
        self._writer = prepared.writer
        self._headers_sent = False

    async def add(self, output: ChannelOutput) -> None:
        await self._write(self._writer.part(output))

    async def draft(self, drafted: CanvasDrafted) -> None:
        text = self._prepared.builder.sketch(drafted.ids)
        await self._write(self._writer.draft({"draft": text, "block": drafted.block, "step": drafted.step}))

    async def finish(self, output: ChannelOutput, reason: str) -> None:
        await self.add(output)
        last = [self._writer.finish(reason, diffusion_body(self._prepared.builder.account()))]
        if self._prepared.include_usage:
            last.append(self._writer.usage(_usage(self._prepared)))
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


class BufferedReply:
    """Keeps an answer back until it is whole and judged. Where it breaks what only a look at the whole can tell, it is
    `broken` and nothing has left. What a limit or a stop string has cut is not judged."""

    def __init__(self, reply: Reply, prepared: PreparedRequest, bound: BoundConstraint) -> None:
        self._reply, self._prepared, self._bound = reply, prepared, bound
        self._outputs: list[ChannelOutput] = []
        self.broken: InvalidResponse | None = None

    async def add(self, output: ChannelOutput) -> None:
        self._outputs.append(output)

    async def draft(self, drafted: CanvasDrafted) -> None:
        """A look at what may never leave."""

    async def finish(self, output: ChannelOutput, reason: str) -> None:
        is_whole = reason in ("stop", "tool_calls") and not self._prepared.builder.stopped
        text = self._judged(output)
        if is_whole and (violation := await self._bound.validate(text)) is not None:
            ids, kind = self._prepared.builder.ids, self._bound.kind
            self.broken = InvalidResponse(ids=ids, text=text, violation=violation, kind=kind)
            return
        for each in self._outputs:
            await self._reply.add(each)
        await self._reply.finish(output, reason)

    async def fail(self, error: WorkerError) -> None:
        await self._reply.fail(error)

    def _judged(self, last: ChannelOutput) -> str:
        """The answer as whoever judges it wants it."""
        whole = (*self._outputs, last)
        text = "".join(each.text for each in whole)
        if self._prepared.constraint is None or self._prepared.constraint.kind != "tools":
            return text
        return tool_answer_text(text, [(call.name, call.arguments) for each in whole for call in each.calls])


def _reply(prepared: PreparedRequest, send: Send) -> Reply:
    return Stream(send, prepared) if prepared.is_stream else WholeReply(send, prepared)


def _with_time(generation: GenerationRequest, spent_s: float) -> GenerationRequest:
    return (
        generation
        if generation.deadline_s is None
        else replace(generation, deadline_s=max(0.0, generation.deadline_s - spent_s))
    )


async def _follow(output_stream: OutputStream, builder: ResponseBuilder, reply: Reply) -> Finished | None:
    """Relay what happens until the end; None when a stop string ended the answer. Raises the error of a fault."""
    async for happened in output_stream:
        match happened:
            case BlockSealed() | PrefixStable():
                await reply.add(builder.take(happened))
                if builder.stopped:
                    output_stream.stop()
                    return None
            case CanvasDrafted():
                await reply.draft(happened)
            case Finished():
                return happened
            case Faulted(error=error):
                raise error
    raise AssertionError("a sequence ends in Finished or Faulted")


def _usage(prepared: PreparedRequest) -> dict[str, Any]:
    details = Details(
        accepted_prediction_tokens=prepared.builder.accepted_prediction_tokens,
        rejected_prediction_tokens=prepared.builder.rejected_prediction_tokens,
        reasoning_tokens=prepared.builder.reasoning_tokens,
    )
    return usage_body(prepared.builder.account(), details)


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
