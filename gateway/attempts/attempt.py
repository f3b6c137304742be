"""One attempt: one call to one candidate, before and after the point of no return.

Before that point nothing has been sent to the client, every failure is an AttemptFailed, and another candidate can be
tried. After it (`commit`), a failure can only end the response.
"""

from collections.abc import Callable
from math import inf
from typing import Final

from gateway.attempts.answer_content import bytes_of_content, has_blank_choice, is_empty, is_refusal
from gateway.attempts.attempt_end import paused_too_long, priced, retry_after_s, time_limit_passed, too_large
from gateway.attempts.attempt_params import AttemptParams
from gateway.attempts.confidence import (
    as_requested,
    check_confidence,
    minimum_of,
    needs_logprobs,
    reported_confidence,
)
from gateway.attempts.pushing import Send, push_deltas
from gateway.attempts.read_limits import Expired, ReadLimits
from gateway.attempts.request_context import RequestContext
from gateway.attempts.response_validation import ResponseValidation
from gateway.decision import AttemptRecord, estimate_usage
from gateway.enums import AttemptOutcome, Reason
from gateway.errors import AttemptFailed, LowConfidence, Refused, TargetRateLimited, UpstreamError
from gateway.parameters import ignored_by
from gateway.ports import Deltas, Upstream, UpstreamResponse, World
from gateway.types import Call, Delta, Usage
from gateway.upstreams.answers.kept_bytes import keep_bytes
from gateway.upstreams.fan_out import FanOutResponse, http_status, needs_fan_out
from gateway.validation.json_schema import SchemaCache
from twolane.process.http.byte_budget import HoldingPart

MAX_BUFFERED_BYTES: Final = 32 * 1024 * 1024
MAX_BUFFERED_DELTAS: Final = 1 << 18
_MAX_EMPTY_DELTAS: Final = 256  # at the beginning of a stream: each choice begins with one for its role
_DELTA_BYTES: Final = 400  # that a delta takes in memory beside its data
_MOST: Final = 0.9  # of a limit; routing and the end of earlier attempts use up the rest


class Attempt:
    """One call. However it ends, its permit is released exactly once and its connection is returned or closed."""

    error: AttemptFailed | None = None  # why the attempt failed, if it did
    is_complete = False  # the whole response is buffered, nothing follows
    _response: UpstreamResponse | None = None
    _deltas: Deltas | None = None
    _arrived: Callable[[], list[Delta]] = list  # see `ports.Deltas`
    _received_ms: float | None = None  # when a whole response had arrived
    _first_byte_ms: float | None = None
    _first_token_ms: float | None = None
    _has_answer = _has_finish_reason = False
    _usage: Usage | None = None
    _confidence: float | None = None  # of a complete answer that has a minimum
    _output_chars = _kept_chars = _kept_bytes = _kept_deltas = 0
    _is_committed = False  # past the point of no return
    _is_ended = _is_closed = False

    def __init__(self, context: RequestContext, params: AttemptParams, *, clock: World, schemas: SchemaCache) -> None:
        self.candidate = params.candidate
        self._context, self._params, self._clock = context, params, clock
        self._buffered: list[Delta] = []
        self._span_id = context.next_span_id()
        self._started_s = now_s = clock.now_s()
        self._started_ms = context.at_ms(now_s)
        self._minimum = minimum_of(params.candidate, context.query)
        self._asked = context.decisions.open if context.decisions is not None else None
        self._ignored = ignored_by(params.candidate.target, context.query)
        self._validation = ResponseValidation(context.query, context.plan.checks, schemas, clock.now_s)
        self._limits = ReadLimits()
        self._held = HoldingPart()
        # Targets report their confidence at the end of a response.
        needs_all = not context.query.stream or self._minimum is not None
        self._needed_bytes = None if needs_all else self._validation.bytes_to_buffer
        self._total_until_s = now_s + params.total_ms / 1000

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
                if self._validation.has_check:
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
        """Pass the point of no return. Returns the buffered deltas, to send at once; `more` has the others."""
        self._is_committed = True
        if self._context.surest is not None:
            self._context.forget_surest()
        now_s = self._clock.now_s()
        if self._validation.has_check:
            self._context.record_validation(self._validation.result, self._validation.took_ms)
        self._context.commit(self.candidate, self._started_ms, self._usage, now_s, ignored=self._ignored)
        self._kept_chars = self._output_chars
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
        now_s = self._clock.now_s()
        self._context.record_validation(self._validation.result, self._validation.took_ms)
        self._context.commit(self.candidate, self._started_ms, self._usage, now_s, ignored=self._ignored)
        self._context.mark_unsure(self._confidence)
        return self._buffered

    def lasted_s(self) -> float:
        """How long the target has taken so far."""
        now_s = self._clock.now_s()
        return now_s - self._started_s - self._clock.stalled_s(self._started_s, now_s)

    def lose_hedge(self) -> None:
        """Record that another attempt of this request was faster."""
        self._end(Reason.HEDGE)

    async def more(self, send: Send | None = None) -> list[Delta]:
        """The deltas after the buffered ones, as many as have arrived; none at the end. Raises AttemptFailed, after the
        deltas before the fault; fallback is no longer possible. `send`: see `push_deltas`."""
        if self.error is not None:
            raise self.error
        if self._is_ended or self._deltas is None:
            return []
        found: list[Delta] = []
        try:
            if send is not None and not self._validation.has_check:
                await push_deltas(self._deltas, self._limits, self._observe, send, time_out=self._time_out)
            delta = await self._next(self._deltas)
            if delta is not None:
                for each in (delta, *self._arrived()):
                    if each is not delta:
                        self._observe(each)
                    if self._validation.has_check:
                        self._pass(each)
                    found.append(each)
                return found
            self._validation.finish([])
        except AttemptFailed as error:
            self._fail(error)
            if not found:
                raise
            return found
        self._context.record_validation(self._validation.result, self._validation.took_ms)
        self._end(AttemptOutcome.OK)
        await self.aclose()
        return []

    def _pass(self, delta: Delta) -> None:
        """Check a delta of a stream before it is sent. Raises AttemptFailed."""
        if self._validation.keeps_text:
            self._keep(self._output_chars - self._kept_chars)
            self._kept_chars = self._output_chars
        self._validation.feed(delta)

    async def aclose(self) -> None:
        """Return the connection, or close it if the response is incomplete: the attempt then counts as cancelled."""
        if self._is_closed:
            return
        self._is_closed = True
        self._end(AttemptOutcome.CANCELLED)
        self._limits.close()
        if self._deltas is not None and id(self._deltas) != id(self._response):  # a response may be its own iterator
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
        try:
            with self._limits:
                call = self._call()
                fans_out = needs_fan_out(upstream, call)
                self._response = response = FanOutResponse(upstream, call) if fans_out else await upstream.send(call)
                deltas = self._deltas = response.deltas()
                if not self._context.query.stream:
                    return await self._receive_whole(deltas)
        except TimeoutError as fault:
            raise self._time_out() from fault
        self._arrived = getattr(deltas, "arrived", list)
        buffered: list[Delta] = []
        content_bytes = 0
        while (delta := await self._next(deltas)) is not None:
            if len(buffered) >= _MAX_EMPTY_DELTAS and is_empty(delta):
                continue  # some targets send them while they think
            buffered.append(delta)
            self._keep(len(delta.data) + len(delta.original))
            self._validation.feed(delta)  # fail early, not only at the end of the response
            if self._needed_bytes is not None:
                content_bytes += bytes_of_content(delta)
                if content_bytes >= self._needed_bytes:
                    return buffered
        self._complete()
        return buffered

    async def _receive_whole(self, deltas: Deltas) -> list[Delta]:
        """The one delta of a whole response, and what a target that fails sends before. Its bytes are counted where
        they are read."""
        buffered: list[Delta] = []
        while not self._has_answer or not buffered:
            delta = await anext(deltas, None)
            if delta is None:
                break
            if delta.data or delta.pieces:
                self._observe(delta)
            if delta.data:
                buffered.append(delta)
                if self._validation.has_check:
                    self._validation.feed(delta)
            elif delta.pieces:  # of the response, in progress; otherwise a heartbeat
                self._validation.watch(delta)
        self._complete()
        return buffered

    def _complete(self) -> None:
        """The whole response has arrived. Raises UpstreamError if it has no content."""
        if not self._has_answer:
            raise UpstreamError("The target's response is empty.", detail="empty answer")
        self.is_complete = True
        self._received_ms = self._arrived_ms(self._clock.now_s())  # its validation is not the target's time

    def _keep(self, size: int) -> None:
        """Count a delta that stays in memory, to be sent or for its check. Raises UpstreamError if it is too much."""
        self._kept_bytes += size
        self._kept_deltas += 1
        keep_bytes(size + _DELTA_BYTES)
        if self._kept_bytes > MAX_BUFFERED_BYTES or self._kept_deltas > MAX_BUFFERED_DELTAS:
            raise too_large(MAX_BUFFERED_BYTES, MAX_BUFFERED_DELTAS)

    def _call(self) -> Call:
        """What is asked of the target, which is told when the whole response must be complete."""
        left_ms = self._params.limit_ms if self._needed_bytes is None else self._params.total_ms
        return Call(
            target=self.candidate.target,
            query=self._context.query,
            left_ms=left_ms if left_ms < inf else None,
            validation_error=self._context.validation_error,
            ignored=self._ignored,
            questions=self._asked,
            span_id=self._span_id,
            # Where the surest answer may be served, no answer ends early.
            min_confidence=None if self._context.plan.serves_surest else self._minimum,
            wants_logprobs=self._minimum is not None and needs_logprobs(self.candidate, self._context.query),
        )

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
        """The next delta of a stream that is no heartbeat; None at the end."""
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

    def _time_out(self) -> AttemptFailed:
        """The error for the limit that expired."""
        if self._limits.expired is not Expired.UNTIL:
            return paused_too_long(self.candidate.target.idle_s)
        now_s = self._clock.now_s()
        left_ms = (self._context.left_ms(now_s), self._context.total_left_ms(now_s))
        return time_limit_passed(*left_ms, is_committed=self._is_committed)

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

    def _is_hang(self, now_s: float) -> bool:
        """Whether the target sent nothing for as long as the policy lets it. The client's own, shorter deadline, and
        what earlier attempts left of the route's, prove nothing."""
        waited_ms = (now_s - self._started_s) * 1000
        return self._first_byte_ms is None and waited_ms >= _MOST * self._context.plan.silence_limit_ms

    def _fail(self, error: AttemptFailed) -> None:
        self.error = error
        if error.retry_after_s is not None:  # the target is called again after that, so the client may come back then
            error.retry_after_s = min(error.retry_after_s, self.candidate.target.retry_after_max_s)
        self._end(error.reason, error)
        if self._context.plan.serves_surest and self.unsure_confidence is not None:
            self._context.keep_surest(self)

    def _estimate(self, outcome: Reason | AttemptOutcome) -> Usage | None:
        """Usage follows at the end of a response, so it is missing for a client that left before; and some targets do
        not report any."""
        if self._first_byte_ms is None and outcome is not AttemptOutcome.CANCELLED:
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
            started_ms=self._started_ms,
            ended_ms=self._arrived_ms(now_s) if self._received_ms is None else self._received_ms,
            outcome=outcome,
            first_byte_ms=self._first_byte_ms,
            stream=self._context.query.stream,
            first_token_ms=self._first_token_ms,
            detail=error.log_detail if error else "",
            status=http_status(self._response, error, has_data=self._first_byte_ms is not None),
            probe=self._params.permit.probe,
            hedge=self._params.hedge,
            usage=priced(self._usage, self.candidate.target.price),
            estimate=self._estimate(outcome) if self._usage is None else None,
            span_id=self._span_id,
            budget_ms=p95_ms if p95_ms < inf else None,
            queued_ms=self._params.queued_ms,
            ignored=self._ignored,
            is_hang=outcome is Reason.DEADLINE and self._is_hang(now_s),
            retry_after_s=None if error is None else retry_after_s(error),
            is_quota=isinstance(error, TargetRateLimited),
        )
        self._params.permit.release(record, now_s)
        self._context.end_attempt(self.candidate, record, error)
