"""ASGI handler of the generation endpoints: read the request, submit it to the engine and send the response.

Chat and text completions share it. A stream sends its headers with the first final text. An error before that has its
own HTTP status; a later error is the last event of the stream. Sent text is never changed. When the client disconnects,
its sequence is aborted.
"""

import asyncio
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
from diffusion_worker.types.drafts import draft_body
from diffusion_worker.types.events import BlockSealed, CanvasDrafted, Faulted, Finished, PrefixStable, PromptScored
from diffusion_worker.types.requests import GenerationRequest
from diffusion_worker.web.constraint_repair import InvalidResponse, ResponseRepairer
from diffusion_worker.web.error_body import InvalidValue, problem_of
from diffusion_worker.web.http_io import JSON, cancel_on_disconnect, header, send_response
from diffusion_worker.web.label_logprobs import Layouts
from diffusion_worker.web.request_log import RequestLog, request_log_of
from diffusion_worker.web.response_builder import ResponseBuilder
from diffusion_worker.web.response_parts import DONE, Details, Writer, diffusion_body, event, usage_body
from diffusion_worker.web.serving_state import ServingState
from twolane.process.http_body import read_body

DEADLINE_HEADER = "x-twolane-deadline-ms"
CONFIDENCE_HEADER = "x-twolane-min-confidence"
MAX_ATTEMPTS = 6  # generations per request when validation of the complete answer fails
_LARGE_BYTES = 64 * 1024  # larger bodies are parsed in a thread, to keep the event loop responsive
_STREAM_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRequest:
    """A parsed request: the generation request, the response builder and the response writer."""

    generation: GenerationRequest
    builder: ResponseBuilder
    writer: Writer
    is_stream: bool
    include_usage: bool
    constraint: Constraint | None = None  # not compiled yet
    headers: TokenPrefixes = NO_PREFIX  # token prefixes allowed before the constrained text
    layouts: Layouts = ()  # labels to compute probabilities for; empty: none requested
    request_log: RequestLog | None = None  # receives the error and the usage
    owner: str = ""  # name of the API key
    kept_ids: tuple[int, ...] = ()  # beginning of the answer, kept from an earlier attempt


# Prepares a request from its body and the deadline header (milliseconds). Raises InvalidRequest or NotResident.
PrepareRequest = Callable[[ServingState, bytes, float | None], PreparedRequest]


class Endpoint:
    """One generation endpoint. Raises WorkerError until the response has started."""

    def __init__(self, serving_state: ServingState, prepare: PrepareRequest) -> None:
        self._state, self._prepare = serving_state, prepare
        # Few threads: a large body takes many times its size in memory, and the engine needs the processors.
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="prepare")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        with request_log_of(scope, self._state.tracing) as request_log:
            owner = getattr((scope.get("state") or {}).get("key"), "name", "")
            minimum = header_number(scope, CONFIDENCE_HEADER, 1.0)
            prepared = replace(await self._read(scope, receive), request_log=request_log, owner=owner)
            if minimum is not None:
                prepared = replace(prepared, generation=replace(prepared.generation, min_confidence=minimum))
            model = self._state.model_id(prepared.generation.decoding_mode)
            if timeline := request_log.begin(prepared.generation, model=model, is_stream=prepared.is_stream):
                prepared = replace(prepared, generation=replace(prepared.generation, timeline=timeline))
            await cancel_on_disconnect(receive, self._answer(prepared, send))

    async def _read(self, scope: Scope, receive: Receive) -> PreparedRequest:
        deadline_ms = header_number(scope, DEADLINE_HEADER, math.inf)
        body = await read_body(receive)
        if len(body) > _LARGE_BYTES:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, self._prepare, self._state, body, deadline_ms)
        return self._prepare(self._state, body, deadline_ms)

    async def _answer(self, prepared: PreparedRequest, send: Send) -> None:
        """Compile the constraint, then generate and send the answer.

        An answer whose constraint needs validation of the complete text is buffered until it is valid."""
        if prepared.layouts:
            prepared = await self._with_labels(prepared)
        if prepared.constraint is None:
            await self._generate(prepared, _response_sink(prepared, send))
            return
        started, (tokenization, info) = time.monotonic(), self._state.loaded()
        bound = await self._state.constraint_service.bind(
            prepared.constraint, tokenization.tokenizer, info, prepared.headers, owner=prepared.owner
        )
        matcher = open_matcher(bound.automaton, prepared.generation.max_tokens)
        prepared = replace(prepared, generation=replace(prepared.generation, matcher=matcher))
        if prepared.is_stream and not bound.needs_check:
            await self._generate(prepared, _response_sink(prepared, send))
            return
        generation = replace(
            _less_time(prepared.generation, time.monotonic() - started), stream_prefix=False, stream_drafts=False
        )
        await self._generate_valid(replace(prepared, generation=generation), bound, send)

    async def _generate_valid(self, prepared: PreparedRequest, bound: BoundConstraint, send: Send) -> None:
        """Generate until the answer is valid, at most MAX_ATTEMPTS times. Raises InvalidOutput."""
        started = time.monotonic()
        repairer = ResponseRepairer(generation=prepared.generation, tokenizer=self._state.loaded()[0].tokenizer)
        for attempt in range(1, MAX_ATTEMPTS + 1):
            buffered = BufferedResponse(_response_sink(prepared, send), prepared, bound)
            await self._generate(prepared, buffered)
            if buffered.invalid is None:
                return
            repair = repairer.repair(buffered.invalid, attempt) if attempt < MAX_ATTEMPTS else None
            if repair is None:
                raise InvalidOutput(f"the answer violates its constraint: {buffered.invalid.violation}")
            prepared = replace(
                prepared,
                generation=_less_time(repair.generation, time.monotonic() - started),
                kept_ids=repair.kept_ids,
                builder=prepared.builder.restart(),
            )

    async def _with_labels(self, prepared: PreparedRequest) -> PreparedRequest:
        """Compile the labels. Each label satisfies the constraint, which is therefore dropped."""
        tokenization, info = self._state.loaded()
        field = None if prepared.constraint is None else prepared.constraint.field
        labels = await self._state.constraint_service.labels(prepared.layouts, field, tokenization.tokenizer, info)
        labels.check_length(min(prepared.generation.max_tokens, prepared.generation.denoising.canvas_length), field)
        return replace(prepared, generation=replace(prepared.generation, labels=labels), constraint=None)

    async def _generate(self, prepared: PreparedRequest, sink: "ResponseSink") -> None:
        """Submit one generation request and write its output to the sink."""
        async with self._state.engine.submit(prepared.generation) as output_stream:
            try:
                if prepared.kept_ids:
                    await sink.add(prepared.builder.resume(prepared.kept_ids))
                finished = await _forward_events(output_stream, prepared.builder, sink)
            except WorkerError as error:
                if prepared.request_log:
                    prepared.request_log.error = error.code
                await sink.fail(error)
                return
            finally:
                if prepared.request_log:
                    prepared.request_log.usage = prepared.builder.usage
        output = prepared.builder.close(finished)
        await sink.finish(output, prepared.builder.finish_reason(finished))


class ResponseSink(Protocol):
    """Receives the output of one generation request."""

    async def add(self, output: ChannelOutput) -> None:
        """Add final output."""

    async def draft(self, drafted: CanvasDrafted) -> None:
        """Add the draft of a canvas, which may still change."""

    async def finish(self, output: ChannelOutput, reason: str) -> None:
        """Add the last output, the finish reason and the usage."""

    async def fail(self, error: WorkerError) -> None:
        """End the response with an error. Raises it when no status has been sent."""


class JsonResponse:
    """Sends one JSON body when the answer is complete."""

    def __init__(self, send: Send, prepared: PreparedRequest) -> None:
        self._send, self._prepared = send, prepared
        self._outputs: list[ChannelOutput] = []

    async def add(self, output: ChannelOutput) -> None:
        self._outputs.append(output)

    async def draft(self, drafted: CanvasDrafted) -> None:
        raise AssertionError(f"received a draft of block {drafted.block}, but the request does not stream")

    async def finish(self, output: ChannelOutput, reason: str) -> None:
        body = self._prepared.writer.response_body([*self._outputs, output], reason, _usage(self._prepared))
        await send_response(self._send, 200, (JSON,), body)

    async def fail(self, error: WorkerError) -> None:
        raise error


class StreamingResponse:
    """Sends server-sent events. The headers are sent with the first event."""

    def __init__(self, send: Send, prepared: PreparedRequest) -> None:
        self._send, self._prepared = send, prepared
        self._writer = prepared.writer
        self._headers_sent = False

    async def add(self, output: ChannelOutput) -> None:
        await self._write(self._writer.output_events(output))

    async def draft(self, drafted: CanvasDrafted) -> None:
        builder = self._prepared.builder
        tokens = [builder.draft_text((token,)) for token in drafted.ids]
        await self._write(self._writer.draft(draft_body(drafted, builder.draft_text(drafted.ids), tokens)))

    async def finish(self, output: ChannelOutput, reason: str) -> None:
        await self.add(output)
        last = [self._writer.finish(reason, diffusion_body(self._prepared.builder.final_usage()))]
        if self._prepared.include_usage:
            last.append(self._writer.usage(_usage(self._prepared)))
        await self._write(b"".join([*last, DONE]), more=False)

    async def fail(self, error: WorkerError) -> None:
        """Send the error as the last event, without [DONE], because the answer is incomplete."""
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


class BufferedResponse:
    """Buffers an answer until it is complete and validated.

    When validation fails, `invalid` is set and nothing has been sent. An answer that was cut by a limit or by a stop
    string is not validated."""

    def __init__(self, sink: ResponseSink, prepared: PreparedRequest, bound: BoundConstraint) -> None:
        self._sink, self._prepared, self._bound = sink, prepared, bound
        self._outputs: list[ChannelOutput] = []
        self.invalid: InvalidResponse | None = None

    async def add(self, output: ChannelOutput) -> None:
        self._outputs.append(output)

    async def draft(self, drafted: CanvasDrafted) -> None:
        """Drafts of an answer that is not validated yet are dropped."""

    async def finish(self, output: ChannelOutput, reason: str) -> None:
        is_whole = reason in ("stop", "tool_calls") and not self._prepared.builder.stopped
        text = self._text_to_validate(output)
        if is_whole and (violation := await self._bound.validate(text)) is not None:
            ids, kind = self._prepared.builder.ids, self._bound.kind
            self.invalid = InvalidResponse(ids=ids, text=text, violation=violation, kind=kind)
            return
        for each in self._outputs:
            await self._sink.add(each)
        await self._sink.finish(output, reason)

    async def fail(self, error: WorkerError) -> None:
        await self._sink.fail(error)

    def _text_to_validate(self, last: ChannelOutput) -> str:
        """The complete answer in the form that the validator expects."""
        whole = (*self._outputs, last)
        text = "".join(each.text for each in whole)
        if self._prepared.constraint is None or self._prepared.constraint.kind != "tools":
            return text
        return tool_answer_text(text, [(call.name, call.arguments) for each in whole for call in each.calls])


def _response_sink(prepared: PreparedRequest, send: Send) -> ResponseSink:
    return StreamingResponse(send, prepared) if prepared.is_stream else JsonResponse(send, prepared)


def _less_time(generation: GenerationRequest, spent_s: float) -> GenerationRequest:
    """The request with its deadline reduced by the time already spent."""
    if generation.deadline_s is None:
        return generation
    return replace(generation, deadline_s=max(0.0, generation.deadline_s - spent_s))


async def _forward_events(output_stream: OutputStream, builder: ResponseBuilder, sink: ResponseSink) -> Finished | None:
    """Pass events to the sink until the sequence ends. Returns None when a stop string ended it; raises its error."""
    async for output in output_stream:
        match output:
            case BlockSealed() | PrefixStable():
                await sink.add(builder.add(output))
                if builder.stopped:
                    output_stream.stop()
                    return None
            case PromptScored():
                await sink.add(builder.prompt_output(output))
            case CanvasDrafted():
                await sink.draft(output)
            case Finished():
                return output
            case Faulted(error=error):
                raise error
    raise AssertionError("the output stream ended without a Finished or Faulted event")


def _usage(prepared: PreparedRequest) -> dict[str, Any]:
    details = Details(
        accepted_prediction_tokens=prepared.builder.accepted_prediction_tokens,
        rejected_prediction_tokens=prepared.builder.rejected_prediction_tokens,
        reasoning_tokens=prepared.builder.reasoning_tokens,
    )
    return usage_body(prepared.builder.final_usage(), details)


def header_number(scope: Scope, name: str, most: float) -> float | None:
    """A finite number from 0 to `most`; None without the header. Raises InvalidValue."""
    text = header(scope, name.encode())
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 <= value <= most or value == math.inf:
        allowed = "a number of milliseconds" if name == DEADLINE_HEADER else f"a number from 0 to {most:g}"
        raise InvalidValue(f"{name} must be {allowed}, not {text!r}.", param=name)
    return value
