"""One attempt: one call to one candidate, before and after the point of no return.

Before that point nothing has been sent to the client, every failure is an AttemptFailed, and another candidate can be
tried. After it (`commit`), a failure can only end the response.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, replace
from math import inf
from typing import Final

from gateway.attempts.request_context import RequestContext
from gateway.attempts.response_validation import ResponseValidation
from gateway.decision import AttemptRecord
from gateway.enums import AttemptOutcome, Reason
from gateway.errors import AttemptFailed, DeadlineExceeded, LowConfidence, Refused, UpstreamError
from gateway.ports import Clock, Permit, Upstream, UpstreamResponse
from gateway.types import Call, Candidate, Delta, Usage
from gateway.validation.json_schema import SchemaCache

MAX_BUFFERED_BYTES: Final = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptParams:
    """What an attempt needs: the permit, the upstream client, and what depends on the remaining candidates.

    `limit_ms` is the time within which the response must be ready to be served; None without a deadline.
    """

    candidate: Candidate
    permit: Permit
    upstream: Upstream
    limit_ms: float | None = None
    is_last: bool = True  # no candidate is left, so a refusal is served
    hedge: bool = False


class Attempt:
    """One call. However it ends, its permit is released exactly once and its connection is returned or closed."""

    def __init__(self, context: RequestContext, params: AttemptParams, *, clock: Clock, schemas: SchemaCache) -> None:
        self.candidate = params.candidate
        self.reason: Reason | None = None  # why the attempt failed, if it did
        self._context = context
        self._params = params
        self._clock = clock
        self._response: UpstreamResponse | None = None
        self._deltas: AsyncGenerator[Delta, None] | None = None
        self._buffered: list[Delta] = []
        self._span_id = context.next_span_id()
        self._started_ms = context.at_ms(clock.now_s())
        self._first_byte_ms: float | None = None
        self._first_token_ms: float | None = None
        self._usage: Usage | None = None
        self._validation = ResponseValidation(context.query, context.plan.checks, schemas, clock.now_s)
        self.is_complete = False  # the whole response is buffered, nothing follows
        self._is_committed = False  # past the point of no return
        self._is_ended = False

    async def open(self) -> bool:
        """Call the target, buffer and validate its response. True if the response may be served.

        Otherwise, or when cancelled, the attempt is recorded and closed. An opened attempt must be served (`commit`)
        or given up (`lose_hedge`, `aclose`).
        """
        is_ready = False
        try:
            async with asyncio.timeout(_seconds(self._params.limit_ms)):
                self._buffered = await self._receive(self._params.upstream)
            if self.is_complete:
                self._validate()
            is_ready = True
        except TimeoutError:
            self._fail(DeadlineExceeded("The request's deadline passed.", detail=self._timeout_detail()))
        except AttemptFailed as error:
            self._fail(error)
        finally:
            if not is_ready:
                await self.aclose()
        return is_ready

    async def commit(self) -> list[Delta]:
        """Pass the point of no return. Returns the buffered deltas, to send at once; `remaining` has the others."""
        self._is_committed = True
        now_s = self._clock.now_s()
        self._context.record_validation(self._validation.result, self._validation.took_ms)
        self._context.commit(self.candidate, self._started_ms, self._usage, now_s)
        if self.is_complete:
            self._end(AttemptOutcome.OK)
            await self.aclose()
        return self._buffered

    def lose_hedge(self) -> None:
        """Record that another attempt of this request was faster."""
        self._end(Reason.HEDGE)

    async def remaining(self) -> AsyncIterator[Delta]:
        """The deltas after the buffered ones. Raises AttemptFailed; fallback is no longer possible."""
        if self._is_ended or self._deltas is None:
            return
        try:
            while (delta := await self._next(self._deltas)) is not None:
                self._validation.feed(delta)
                yield delta
            self._validation.finish([])
        except AttemptFailed as error:
            self._fail(error)
            raise
        self._context.record_validation(self._validation.result, self._validation.took_ms)
        self._end(AttemptOutcome.OK)
        await self.aclose()

    async def aclose(self) -> None:
        """Return the connection, or close it if the response is incomplete: the attempt then counts as cancelled."""
        self._end(AttemptOutcome.CANCELLED)
        if self._deltas is not None:
            await self._deltas.aclose()
        if self._response is not None:
            await self._response.aclose()

    async def _receive(self, upstream: Upstream) -> list[Delta]:
        """Receive as much of the response as must be buffered before any of it may be sent."""
        query = self._context.query
        call = Call(
            target=self.candidate.target,
            query=query,
            left_ms=self._params.limit_ms,
            validation_error=self._context.validation_error,
            span_id=self._span_id,
        )
        self._response = await upstream.send(call)
        self._deltas = self._response.deltas()
        # Targets report their confidence at the end of a response.
        needs_all = not query.stream or self.candidate.min_confidence is not None
        needed_bytes = None if needs_all else self._validation.bytes_to_buffer
        buffered: list[Delta] = []
        size = content_bytes = 0
        async for delta in self._deltas:
            self._observe(delta)
            buffered.append(delta)
            size += len(delta.data)
            if size > MAX_BUFFERED_BYTES:
                raise UpstreamError(
                    f"The target's response exceeds {MAX_BUFFERED_BYTES} bytes and cannot be validated.",
                    detail="answer too large",
                )
            self._validation.feed(delta)  # fail early, not only at the end of the response
            content_bytes += _content_bytes(delta)
            if needed_bytes is not None and content_bytes >= needed_bytes:
                return buffered
        if not buffered:
            raise UpstreamError("The target's response is empty.", detail="empty answer")
        self.is_complete = True
        return buffered

    def _validate(self) -> None:
        """All checks on a complete response before its first byte is sent; raises AttemptFailed."""
        if not self._params.is_last and _is_refusal(self._buffered):
            raise Refused("The target declined to answer.", detail="declined")
        self._buffered = self._validation.finish(self._buffered)
        self._check_confidence()

    def _check_confidence(self) -> None:
        minimum = self.candidate.min_confidence
        if minimum is None:
            return
        confidence = self._usage.confidence if self._usage else None
        if confidence is None:
            raise LowConfidence(
                "The route requires a minimum confidence, but the target reported none.", detail="no confidence given"
            )
        if confidence < minimum:
            detail = f"confidence {confidence:.3f} < {minimum:g}"
            raise LowConfidence(f"The target's confidence is below the route's minimum: {detail}.", detail=detail)

    async def _next(self, deltas: AsyncIterator[Delta]) -> Delta | None:
        limit_s = _seconds(self._context.left_ms(self._clock.now_s()))
        try:
            if limit_s is None:  # asyncio.timeout(None) would cost as much as a real time-out
                delta = await anext(deltas, None)
            else:
                async with asyncio.timeout(limit_s):
                    delta = await anext(deltas, None)
        except TimeoutError:
            raise DeadlineExceeded("The request's deadline passed.", detail="deadline passed mid-stream") from None
        if delta is not None:
            self._observe(delta)
        return delta

    def _observe(self, delta: Delta) -> None:
        """Record the times and the usage that a delta brings."""
        if self._first_byte_ms is None:
            self._first_byte_ms = self._context.at_ms(self._clock.now_s())
        if self._first_token_ms is None and self._context.query.stream and _content_bytes(delta):
            self._first_token_ms = self._context.at_ms(self._clock.now_s())
        if delta.usage is not None:
            self._usage = delta.usage
            if self._is_committed:
                self._context.record_usage(delta.usage)

    def _fail(self, error: AttemptFailed) -> None:
        self.reason = error.reason
        self._end(error.reason, error)

    def _priced_usage(self) -> Usage | None:
        """The usage with the cost by the target's price, if the policy has one."""
        usage, price = self._usage, self.candidate.target.price
        if usage is None or price is None:
            return usage
        return replace(usage, cost=price.cost(usage.input_tokens, usage.output_tokens))

    def _timeout_detail(self) -> str:
        left_ms = self._context.left_ms(self._clock.now_s())
        return "deadline passed" if left_ms is None or left_ms <= 0 else "the attempt limit passed"

    def _end(self, outcome: Reason | AttemptOutcome, error: AttemptFailed | None = None) -> None:
        """Record the end of the attempt and release its permit; only the first call has an effect."""
        if self._is_ended:
            return
        self._is_ended = True
        now_s = self._clock.now_s()
        record = AttemptRecord(
            target=self.candidate.target.policy_name,
            url=self.candidate.target.address,
            started_ms=self._started_ms,
            ended_ms=self._context.at_ms(now_s),
            outcome=outcome,
            first_byte_ms=self._first_byte_ms,
            stream=self._context.query.stream,
            first_token_ms=self._first_token_ms,
            detail=error.detail if error else "",
            probe=self._params.permit.probe,
            hedge=self._params.hedge,
            usage=self._priced_usage(),
            span_id=self._span_id,
            budget_ms=_budget_ms(self.candidate),
        )
        self._params.permit.release(record, now_s)
        self._context.end_attempt(self.candidate, record, error)


def _budget_ms(candidate: Candidate) -> float | None:
    p95_ms = candidate.slo.p95_ms if candidate.slo else inf
    return p95_ms if p95_ms < inf else None


def _seconds(limit_ms: float | None) -> float | None:
    return None if limit_ms is None else max(0.0, limit_ms / 1000)


def _content_bytes(delta: Delta) -> int:
    """Bytes of content in a delta. The first chunk of a stream usually carries a role and no content."""
    return sum(
        len(piece.text.encode("utf-8", "surrogatepass"))
        + len(piece.refusal)
        + sum(len(call.name) + len(call.arguments) for call in piece.tool_calls)
        for piece in delta.pieces
    )


def _is_refusal(deltas: list[Delta]) -> bool:
    """Whether every choice is a refusal, by the model or by a content filter."""
    pieces = [piece for delta in deltas for piece in delta.pieces]
    declined = {piece.index for piece in pieces if piece.refusal or piece.finish_reason == "content_filter"}
    return bool(pieces) and declined == {piece.index for piece in pieces}
