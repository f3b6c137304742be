"""Log line and trace span of each generation request, written when it ends.

Written for every outcome: completed, refused, failed, or client disconnected. The text is never logged.
"""

import asyncio
import logging
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from starlette.types import Scope

from diffusion_worker.errors import WorkerError
from diffusion_worker.telemetry import semantic_conventions as c
from diffusion_worker.telemetry.tracing import Request, Tracing, Value
from diffusion_worker.types.events import Usage
from diffusion_worker.types.requests import GenerationRequest
from diffusion_worker.types.timeline import Timeline, TimelineEvent
from twolane.process.http_body import ClientDisconnected
from twolane.process.json_log import TRACE_ID
from twolane.process.trace_context import Trace, read_trace

REQUESTS: Final = logging.getLogger("twolane.worker.requests")
CLIENT_GONE: Final = "client_gone"
REQUEST_ID: Final = "twolane.request_id"  # keys of a scope
TRACE: Final = "twolane.trace"


@dataclass(slots=True, kw_only=True)
class RequestLog:
    """The log entry of one request; use it as a context manager. The handler sets `error` and `usage`."""

    operation: str
    request_id: str
    trace: Trace | None = None
    tracing: Tracing | None = None  # None: tracing is disabled, even with a `trace`
    model: str = ""
    is_stream: bool = False
    error: str = ""
    usage: Usage | None = None
    _generation: GenerationRequest | None = None
    _timeline: Timeline | None = None
    _started_s: float = field(default_factory=time.monotonic)

    def __enter__(self) -> Self:
        if self._is_traced:
            self._timeline = Timeline()
        TRACE_ID.set(
            self.trace.hex_id if self.trace else None
        )  # not reset, so that log lines of the error response have it too
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is not None:
            self.error = _code_of(error)
        if REQUESTS.isEnabledFor(logging.INFO):
            REQUESTS.info("request", extra={"fields": self._log_fields()})
        if self.tracing is not None and self.trace is not None and self._is_traced:
            self.tracing.ended(self.trace, self._span())

    def begin(self, generation: GenerationRequest, *, model: str, is_stream: bool) -> Timeline | None:
        """Record the parsed request before it is submitted. Returns the timeline to fill, or None if not traced."""
        self._generation, self.model, self.is_stream = generation, model, is_stream
        return self._timeline

    @property
    def _is_traced(self) -> bool:
        return self.tracing is not None and self.trace is not None and self.trace.is_recorded

    def _log_fields(self) -> dict[str, Value | None]:
        usage = self.usage
        return {
            "id": self.request_id,
            "operation": self.operation,
            "model": self.model or None,
            "stream": self.is_stream,
            "error": self.error or None,
            "ms": round((time.monotonic() - self._started_s) * 1000, 2),
            "prompt_tokens": usage.prompt_tokens if usage else None,
            "completion_tokens": usage.completion_tokens if usage else None,
            "denoising_steps": usage.denoising_steps if usage else None,
            "confidence": usage.confidence if usage else None,
        }

    def _span(self) -> Request:
        timeline = self._timeline or Timeline()
        moments = tuple(timeline.events)  # the engine's thread may still record the last event
        return Request(
            name=f"{self.operation} {self.model}".rstrip(),
            started_s=self._started_s,
            ended_s=time.monotonic(),
            error=self.error,
            attributes=self._attributes() | _durations(moments, self._started_s) | {c.EVENTS_DROPPED: timeline.dropped},
            moments=moments,
        )

    def _attributes(self) -> dict[str, Value]:
        fields: dict[str, Value | None] = {
            c.OPERATION: self.operation,
            c.PROVIDER: c.US,
            c.REQUEST_ID: self.request_id,
            c.REQUEST_MODEL: self.model or None,
            c.REQUEST_STREAM: self.is_stream,
            c.MAX_TOKENS: self._generation.max_tokens if self._generation else None,
        }
        if self.usage is not None:
            fields |= {
                c.INPUT_TOKENS: self.usage.prompt_tokens,
                c.CACHED_TOKENS: self.usage.cached_tokens,
                c.OUTPUT_TOKENS: self.usage.completion_tokens,
                c.STEPS: self.usage.denoising_steps,
                c.PASSES: self.usage.forward_passes,
                c.CONFIDENCE: self.usage.confidence,
                c.CONVERGED: self.usage.converged,
            }
        return {name: value for name, value in fields.items() if value is not None}


def request_log_of(scope: Scope, tracing: Tracing | None) -> RequestLog:
    """The log of a new request. Stores its trace in the scope, for the response headers."""
    sender = read_trace(dict(scope["headers"]))
    trace = scope[TRACE] = tracing.begin(sender) if tracing else sender
    path = scope["path"]
    operation = c.CHAT if path.startswith("/v1/chat") else c.DECISIONS if path.startswith("/v1/decis") else c.TEXT
    return RequestLog(operation=operation, request_id=scope.get(REQUEST_ID, ""), trace=trace, tracing=tracing)


def _durations(moments: tuple[TimelineEvent, ...], started_s: float) -> dict[str, Value]:
    at = {moment.name: moment.at_s for moment in reversed(moments)}  # the first of each name
    fields: dict[str, Value] = {}
    if "placed" in at:
        fields[c.QUEUE] = at["placed"] - started_s
    if "placed" in at and "prefilled" in at:
        fields[c.PREFILL] = at["prefilled"] - at["placed"]
    return fields


def _code_of(error: BaseException) -> str:
    if isinstance(error, WorkerError):
        return error.code
    return CLIENT_GONE if isinstance(error, ClientDisconnected | asyncio.CancelledError) else "internal_error"
