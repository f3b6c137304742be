"""One attempt: one call to one candidate, before and after the point of no return.

Before that point nothing has been sent to the client, every failure is an AttemptFailed, and another candidate can be
tried. After it (`commit`), a failure can only end the response.
"""

from collections.abc import AsyncIterator
from dataclasses import replace
from math import inf
from typing import Final

from gateway.attempts.answer_content import bytes_of_content, has_blank_choice, is_empty, is_refusal
from gateway.attempts.confidence import (
    as_requested,
    check_confidence,
    minimum_of,
    needs_logprobs,
    reported_confidence,
)
from gateway.attempts.read_limits import Expired, ReadLimits
from gateway.attempts.request_context import RequestContext
from gateway.attempts.response_validation import ResponseValidation
from gateway.decision import AttemptRecord, estimate_usage
from gateway.enums import AttemptOutcome, Reason
from gateway.errors import (
    AttemptFailed,
    DeadlineExceeded,
    LowConfidence,
    NotResident,
    Overloaded,
    Refused,
    TargetRateLimited,
    UpstreamAuth,
    UpstreamError,
)
from gateway.parameters import ignored_by
from gateway.ports import Deltas, Permit, Upstream, UpstreamResponse, World
from gateway.types import Call, Candidate, Delta, Usage
from gateway.upstreams.answers.kept_bytes import keep_bytes
from gateway.upstreams.fan_out import FanOutResponse, http_status, needs_fan_out
from gateway.validation.json_schema import SchemaCache
from twolane.process.http.byte_budget import HoldingPart
from twolane.process.records import record

_CONCERNS_TARGET: Final = (Overloaded, NotResident, UpstreamError, UpstreamAuth, DeadlineExceeded)
MAX_BUFFERED_BYTES: Final = 32 * 1024 * 1024
MAX_BUFFERED_DELTAS: Final = 1 << 18
_MAX_EMPTY_DELTAS: Final = 256  # at the beginning of a stream: each choice begins with one for its role
_DELTA_BYTES: Final = 400  # that a delta takes in memory beside its data
_MOST: Final = 0.9  # of a limit; routing and the end of earlier attempts use up the rest


@record
class AttemptParams:
    """What an attempt needs: the permit, the upstream client, and what depends on the remaining candidates.

    `limit_ms` is the time within which the response must be ready to be served: as a whole, or the beginning of a
    stream that is passed on as it comes. `total_ms` is the time left for such a stream as a whole.
    """

    candidate: Candidate
    permit: Permit
    upstream: Upstream
    limit_ms: float = inf
    total_ms: float = inf
    is_last: bool = True  # no candidate is left, so a refusal is served
    hedge: bool = False
    queued_ms: float | None = None


class Attempt:
    """One call. However it ends, its permit is released exactly once and its connection is returned or closed."""

    def __init__(self, context: RequestContext, params: AttemptParams, *, clock: World, schemas: SchemaCache) -> None:
        self.candidate = params.candidate
        self.error: AttemptFailed | None = None  # why the attempt failed, if it did
        self._context = context
        self._params = params
        self._clock = clock
        self._response: UpstreamResponse | None = None
        self._deltas: Deltas | None = None
        self._buffered: list[Delta] = []
        self._span_id = context.next_span_id()
        self._started_s = clock.now_s()
        self._received_ms: float | None = None  # when a whole response had arrived
        self._first_byte_ms: float | None = None
        self._first_token_ms: float | None = None
        self._has_answer = False
        self._has_finish_reason = False
        self._usage: Usage | None = None
        self._minimum = minimum_of(params.candidate, context.query)
        self._confidence: float | None = None  # of a complete answer that has a minimum
        self._output_chars = 0
        self._kept_bytes = self._kept_deltas = 0
        self._asked = context.decisions.open if context.decisions is not None else None
        self._ignored = ignored_by(params.candidate.target, context.query)
        self._validation = ResponseValidation(context.query, context.plan.checks, schemas, clock.now_s)
        self._limits = ReadLimits()
        self._held = HoldingPart()
        # Targets report their confidence at the end of a response.
        needs_all = not context.query.stream or self._minimum is not None
        self._needed_bytes = None if needs_all else self._validation.bytes_to_buffer
        self._total_until_s = clock.now_s() + params.total_ms / 1000
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
            with self._held:
                self._limits.end_in(self._params.limit_ms / 1000)
                self._buffered = await self._receive(self._params.upstream)
            if self.is_complete:
                await self._validation.examine_cuts()
                self._validate()
            is_ready = True
        except AttemptFailed as error:
            self._fail(error)
        finally:
            if not is_ready:
                await self.aclose()
        return is_ready

    async def commit(self) -> list[Delta]:
        """Pass the point of no return. Returns the buffered deltas, to send at once; `remaining` has the others."""
        self._is_committed = True
        self._context.forget_surest()
        now_s = self._clock.now_s()
        self._context.record_validation(self._validation.result, self._validation.took_ms)
        self._context.commit(self.candidate, self._context.at_ms(self._started_s), self._usage, now_s)
        if self.is_complete:
            self._end(AttemptOutcome.OK)
            await self.aclose()
        else:  # from here on the stream is limited as a whole, no longer by the deadline
            self._limits.end_in(self._total_until_s - now_s)
        return self._buffered

    @property
    def unsure_confidence(self) -> float | None:
        """The confidence of an answer that only the gate refused, and that is not blank; None for any other attempt."""
        is_unsure = isinstance(self.error, LowConfidence) and self.is_complete
        return self._confidence if is_unsure and not has_blank_choice(self._buffered) else None

    def commit_unsure(self) -> list[Delta]:
        """Serve an answer although the gate refused it, because no other answer was surer; see `commit`. The attempt
        has ended and stays recorded as it was."""
        started_ms, now_s = self._context.at_ms(self._started_s), self._clock.now_s()
        self._context.record_validation(self._validation.result, self._validation.took_ms)
        self._context.commit(self.candidate, started_ms, self._usage, now_s)
        self._context.mark_unsure(self._confidence)
        return self._buffered

    def lasted_s(self) -> float:
        """How long the target has taken so far."""
        now_s = self._clock.now_s()
        return now_s - self._started_s - self._clock.stalled_s(self._started_s, now_s)

    def lose_hedge(self) -> None:
        """Record that another attempt of this request was faster."""
        self._end(Reason.HEDGE)

    async def remaining(self) -> AsyncIterator[Delta]:
        """The deltas after the buffered ones. Raises AttemptFailed; fallback is no longer possible."""
        if self._is_ended or self._deltas is None:
            return
        try:
            kept_chars = self._output_chars
            while (delta := await self._next(self._deltas)) is not None:
                if self._validation.keeps_text:
                    self._keep(self._output_chars - kept_chars)
                    kept_chars = self._output_chars
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
        self._limits.close()
        if self._deltas is not None:
            await self._deltas.aclose()
        if self._response is not None:
            await self._response.aclose()
        is_doubtful = self._asked is not None and isinstance(self.error, LowConfidence)  # its answers may be served
        if not (self._is_committed or is_doubtful or self is self._context.surest):
            self.forget()

    def forget(self) -> None:
        """Keep nothing of the response: it will not be served."""
        self._buffered = []
        self._held.release()

    async def _receive(self, upstream: Upstream) -> list[Delta]:
        """Receive as much of the response as must be buffered before any of it may be sent."""
        self._response = await self._call(upstream)
        self._deltas = self._response.deltas()
        buffered: list[Delta] = []
        content_bytes = 0
        while (delta := await self._next(self._deltas)) is not None:
            if len(buffered) >= _MAX_EMPTY_DELTAS and is_empty(delta):
                continue  # some targets send them while they think
            buffered.append(delta)
            if self._context.query.stream:  # a whole answer is counted where it is read
                self._keep(len(delta.data) + len(delta.original))
            self._validation.feed(delta)  # fail early, not only at the end of the response
            content_bytes += bytes_of_content(delta)
            if self._needed_bytes is not None and content_bytes >= self._needed_bytes:
                return buffered
        if not self._has_answer:
            raise UpstreamError("The target's response is empty.", detail="empty answer")
        self.is_complete = True
        self._received_ms = self._arrived_ms(self._clock.now_s())  # its validation is not the target's time
        return buffered

    def _keep(self, size: int) -> None:
        """Count a delta that stays in memory, to be sent or for its check. Raises UpstreamError if it is too much."""
        self._kept_bytes += size
        self._kept_deltas += 1
        keep_bytes(size + _DELTA_BYTES)
        if self._kept_bytes > MAX_BUFFERED_BYTES or self._kept_deltas > MAX_BUFFERED_DELTAS:
            raise UpstreamError(
                f"The target's response exceeds {MAX_BUFFERED_BYTES} bytes or {MAX_BUFFERED_DELTAS} events and cannot"
                " be validated.",
                detail="answer too large",
            )

    async def _call(self, upstream: Upstream) -> UpstreamResponse:
        """The beginning of the response. The target is told when the whole of it must be complete."""
        left_ms = self._params.limit_ms if self._needed_bytes is None else self._params.total_ms
        call = Call(
            target=self.candidate.target,
            query=self._context.query,
            left_ms=left_ms if left_ms < inf else None,
            validation_error=self._context.validation_error,
            ignored=self._ignored,
            questions=self._asked,
            span_id=self._span_id,
            # Where the surest answer may be served, no answer ends early.
            min_confidence=None if self._context.plan.serves_surest else self._minimum,
            wants_logprobs=needs_logprobs(self.candidate, self._context.query),
        )
        if needs_fan_out(upstream, call):
            return FanOutResponse(upstream, call)
        try:
            with self._limits:
                return await upstream.send(call)
        except TimeoutError as fault:
            raise self._time_out() from fault

    def _validate(self) -> None:
        """All checks on a complete response before its first byte is sent; raises AttemptFailed."""
        if self._asked is not None and (answers := self._context.decisions) is not None:
            is_last, [whole] = self._params.is_last, self._buffered
            self._buffered = [answers.accept(self._asked, whole, self.candidate, usage=self._usage, is_last=is_last)]
            return
        if not self._params.is_last and is_refusal(self._buffered):
            raise Refused("The target declined to answer.", detail="declined")
        self._buffered = self._validation.finish(self._buffered)
        if self._minimum is not None:
            query = self._context.query
            self._confidence = reported_confidence(self.candidate, self._buffered, self._usage, query)
            self._buffered = as_requested(self.candidate, self._buffered, query)
            check_confidence(self._minimum, self._confidence, self._buffered, query)

    async def _next(self, deltas: Deltas) -> Delta | None:
        """The next delta with data; None at the end."""
        while True:
            try:
                with self._limits:
                    delta = await anext(deltas, None)
            except TimeoutError as fault:
                raise self._time_out() from fault
            if delta is None:
                return None
            if delta.data:
                self._observe(delta)
                return delta
            if delta.pieces:  # of a whole response in progress; otherwise a heartbeat
                self._observe(delta)
                self._validation.watch(delta)

    def _time_out(self) -> AttemptFailed:
        """The error for the limit that expired."""
        if self._limits.expired is not Expired.UNTIL:
            pause = f"no chunk within {self.candidate.target.idle_s:g} s"
            return UpstreamError(f"The target stopped sending: {pause}.", detail=pause)
        if self._is_committed:
            return DeadlineExceeded("The stream exceeded its total time limit.", detail="total limit passed mid-stream")
        left_ms = self._context.left_ms(self._clock.now_s())
        is_attempt = left_ms is not None and left_ms >= 1 and self._context.total_left_ms(self._clock.now_s()) >= 1
        detail = "the attempt limit passed" if is_attempt else "deadline passed"
        return DeadlineExceeded("The request's deadline passed.", detail=detail)

    def _observe(self, delta: Delta) -> None:
        """Record the times and the usage that a delta brings."""
        if self._first_byte_ms is None:
            self._first_byte_ms = self._arrived_ms(self._clock.now_s())
            if self._context.query.stream:
                self._limits.limit_pauses(self.candidate.target.idle_s)
        if self._first_token_ms is None and self._context.query.stream and bytes_of_content(delta):
            self._first_token_ms = self._arrived_ms(self._clock.now_s())
        if delta.data and not self._context.query.stream:  # the whole, of which parts may have been observed
            self._output_chars = 0
        for piece in delta.pieces:
            self._output_chars += len(piece.text)
            for call in piece.tool_calls:
                self._output_chars += len(call.arguments)
            self._has_answer = self._has_answer or piece.is_answer
            self._has_finish_reason = self._has_finish_reason or piece.finish_reason is not None
        if delta.usage is not None:
            self._usage = delta.usage
            if self._is_committed:
                self._context.record_usage(delta.usage)

    def _arrived_ms(self, now_s: float) -> float:
        """When what was read just now had arrived: lag of the gateway's own event loop is not the target's time."""
        return self._context.at_ms(now_s - self._clock.stalled_s(self._started_s, now_s))

    def _is_hang(self, outcome: Reason | AttemptOutcome, now_s: float) -> bool:
        """Whether the target sent nothing for as long as the policy lets it. The client's own, shorter deadline, and
        what earlier attempts left of the route's, prove nothing."""
        waited_ms = (now_s - self._started_s) * 1000
        is_silent = outcome is Reason.DEADLINE and self._first_byte_ms is None
        return is_silent and waited_ms >= _MOST * self._context.plan.silence_limit_ms

    def _fail(self, error: AttemptFailed) -> None:
        self.error = error
        if error.retry_after_s is not None:  # the target is called again after that, so the client may come back then
            error.retry_after_s = min(error.retry_after_s, self.candidate.target.retry_after_max_s)
        self._end(error.reason, error)
        if self._context.plan.serves_surest and self.unsure_confidence is not None:
            self._context.keep_surest(self)

    def _priced_usage(self) -> Usage | None:
        """The usage with the cost by the target's price, if the policy has one."""
        usage, price = self._usage, self.candidate.target.price
        if usage is None or price is None:
            return usage
        return replace(usage, cost=price.cost(usage.input_tokens, usage.output_tokens))

    def _estimate(self, outcome: Reason | AttemptOutcome) -> Usage | None:
        """Usage follows at the end of a response, so it is missing for a client that left before; and some targets do
        not report any."""
        is_used = self._first_byte_ms is not None or outcome is AttemptOutcome.CANCELLED
        if self._usage is not None or not is_used:
            return None
        return estimate_usage(self._context.query.prompt_chars, self._output_chars, self.candidate.target.price)

    def _end(self, outcome: Reason | AttemptOutcome, error: AttemptFailed | None = None) -> None:
        """Record the end of the attempt and release its permit; only the first call has an effect."""
        if self._is_ended:
            return
        self._is_ended = True
        now_s = self._clock.now_s()
        if outcome is AttemptOutcome.OK and not self._has_finish_reason:
            outcome = AttemptOutcome.INCOMPLETE
        p95_ms = self.candidate.slo.p95_ms if self.candidate.slo else inf
        record = AttemptRecord(
            target=self.candidate.target.policy_name,
            url=self.candidate.target.address,
            location=self.candidate.target.location,
            started_ms=self._context.at_ms(self._started_s),
            ended_ms=self._arrived_ms(now_s) if self._received_ms is None else self._received_ms,
            outcome=outcome,
            first_byte_ms=self._first_byte_ms,
            stream=self._context.query.stream,
            first_token_ms=self._first_token_ms,
            detail=error.log_detail if error else "",
            status=http_status(self._response, error, has_data=self._first_byte_ms is not None),
            probe=self._params.permit.probe,
            hedge=self._params.hedge,
            usage=self._priced_usage(),
            estimate=self._estimate(outcome),
            span_id=self._span_id,
            budget_ms=p95_ms if p95_ms < inf else None,
            queued_ms=self._params.queued_ms,
            ignored=self._ignored,
            is_hang=self._is_hang(outcome, now_s),
            retry_after_s=_retry_after_s(error),
            is_quota=isinstance(error, TargetRateLimited),
        )
        self._params.permit.release(record, now_s)
        self._context.end_attempt(self.candidate, record, error)


def _retry_after_s(error: AttemptFailed | None) -> float | None:
    """When the target may be called again. Whoever refuses a request for what it asks refuses no other one."""
    return error.retry_after_s if isinstance(error, _CONCERNS_TARGET) else None
