"""One attempt: one call to one candidate, before and after the point of no return.

Before that point nothing has been sent to the client, every failure is an AttemptFailed, and another candidate can be
tried. After it (`commit`), a failure can only end the response.
"""

from collections.abc import Callable
from math import inf
from typing import Final, Self

from gateway.attempts.answer_content import bytes_of_content, has_blank_choice, is_empty, is_refusal
from gateway.attempts.attempt_end import describe_error, paused_too_long, priced, time_limit_passed
from gateway.attempts.confidence import as_requested, check_confidence, minimum_of, needs_logprobs, reported_confidence
from gateway.attempts.kept_deltas import KeptDeltas
from gateway.attempts.progress import Progress
from gateway.attempts.pushing import Send, push_deltas
from gateway.attempts.read_limits import Expired, ReadLimits
from gateway.attempts.request_context import RequestContext
from gateway.attempts.response_validation import ResponseValidation, is_checked
from gateway.decision import AttemptRecord, estimate_usage
from gateway.enums import AttemptOutcome, Reason
from gateway.errors import AttemptFailed, LowConfidence, Refused, UpstreamError
from gateway.parameters import ignored_by
from gateway.ports import Deltas, Permit, Relay, Upstream, UpstreamResponse, World
from gateway.types import Call, Candidate, Delta
from gateway.upstreams.fan_out import FanOutResponse, http_status, needs_fan_out
from gateway.validation.json_schema import COMPILED
from twolane.process.http.byte_budget import HOLDING, Holding, HoldingPart

_OK: Final = AttemptOutcome.OK  # finding a member in its class takes 0.2 µs

_MAX_EMPTY_DELTAS: Final = 256  # at the beginning of a stream: each choice begins with one for its role


class Attempt(Progress):
    """One call. However it ends, its permit is released exactly once and its connection is returned or closed.

    It fills its `record`. Set before `open`: `limit_ms` is the time within which the response must be ready to be
    served, as a whole or the beginning of a stream that is passed on as it comes; `total_ms` is the time left for such
    a stream as a whole; `is_last` says that no candidate is left, so a refusal is served.
    """

    __slots__ = (
        *("_arrived", "_asked", "_buffered", "_confidence", "_deltas", "_held_bytes", "_holding", "_is_ended"),
        *("_is_released", "_keeps_permit", "_kept", "_minimum", "_needed_bytes", "_permit", "_response", "_upstream"),
        *("_validation",),
        *("error", "is_closed", "is_complete", "is_last", "limit_ms", "total_ms"),
    )
    limit_ms: float
    total_ms: float
    is_last: bool
    _arrived: Callable[[], list[Delta]]  # of a stream; see `ports.Deltas`
    _kept: KeptDeltas  # of a stream
    _held_bytes: int  # of `_holding`

    def __init__(
        self,
        context: RequestContext,
        candidate: Candidate,
        permit: Permit,
        upstream: Upstream,
        clock: World,
        now_s: float,
    ) -> None:
        self._context, self.candidate, self._clock, self._started_s = context, candidate, clock, now_s
        self._usage, self._output_chars = None, 0
        self._has_answer = self._has_finish_reason = self._is_committed = False
        query, checks, target, slo = context.query, context.plan.checks, candidate.target, candidate.slo
        trace = query.trace
        self.record = record = AttemptRecord(
            target=target.policy_name,
            url=target.address,
            location=target.location,
            started_ms=(now_s - query.received_s) * 1000,
            stream=query.stream,
            budget_ms=slo.p95_ms if slo is not None and slo.p95_ms < inf else None,
            probe=permit.probe,
            span_id=0 if trace is None or not trace.is_recorded else context.next_span_id(),
        )
        self._permit, self._upstream = permit, upstream
        self.error: AttemptFailed | None = None  # why the attempt failed, if it did
        self.is_complete = False  # the whole response is buffered, nothing follows
        self.is_closed = False  # its connection was returned or closed
        self._is_ended = False  # and recorded
        self._is_released = False  # nothing of its response is left to be closed
        self._keeps_permit = False  # until `release`
        self._response: UpstreamResponse | None = None
        self._deltas: Deltas | None = None
        self._buffered: list[Delta] = []
        self._holding: Holding | HoldingPart | None = None  # that counts the bytes of the buffered response
        self._confidence: float | None = None  # of a complete answer that has a minimum
        self._minimum = None if candidate.min_confidence is None else minimum_of(candidate, query)
        self._needed_bytes: int | None = None  # to buffer before a stream may be sent; None: all of the response
        self._validation: ResponseValidation | None = None  # None: nothing is checked
        # Questions of a decision.
        self._asked: tuple[int, ...] | None = None if context.decisions is None else context.decisions.open
        if target.ignore or query.beyond_chat.ignored:
            record.ignored = ignored_by(target, query)
        if checks is not None and is_checked(query, checks):
            self._validation = ResponseValidation(query, checks, COMPILED, clock.now_s)
        if query.stream and self._minimum is None:  # targets report their confidence at the end of a response
            self._needed_bytes = 1 if self._validation is None else self._validation.bytes_to_buffer

    async def open(self) -> Self | None:
        """Call the target, buffer and validate its response. This attempt, if the response may be served.

        Otherwise, or when cancelled, the attempt is recorded and closed. An opened attempt must be served (`commit`)
        or given up (`lose_hedge`, `aclose`).
        """
        query, holding, is_ready = self._context.query, HOLDING.get(), False
        self._holding, held_bytes = holding, 0 if holding is None else holding.size
        self._limits = limits = ReadLimits(self.limit_ms / 1000)
        try:
            try:
                with limits:
                    call = self._call()
                    if query.n > 1 and needs_fan_out(self._upstream, call):
                        self._response = FanOutResponse(self._upstream, call)
                    else:
                        self._response = await self._upstream.send(call)
                    self._deltas = deltas = self._response.deltas()
                    if not query.stream and not self._take_whole(deltas):
                        await self._receive_whole(deltas)
                if query.stream:
                    self._arrived, self._kept = getattr(deltas, "arrived", list), KeptDeltas()
                    await self._receive_beginning(deltas)
                if self.is_complete:
                    if self._validation is not None:
                        await self._validation.examine_cuts()
                    self._validate()
            finally:
                if holding is not None:
                    self._held_bytes = holding.size - held_bytes
            is_ready = True
        except AttemptFailed as error:
            self._fail(error)
        except TimeoutError:
            self._fail(self._time_out())
        finally:
            if not is_ready:
                await self.aclose()
        return self if is_ready else None

    def commit(self) -> list[Delta]:
        """Pass the point of no return. Returns the buffered deltas, to send at once; `more` has the others. Close a
        complete attempt that is not closed by it; `release` one that is, when they were sent."""
        self._is_committed = True
        if self._context.surest is not None:
            self._context.forget_surest()
        now_s = self._clock.now_s()
        if self._validation is not None:
            self._record_validation()
        self._context.commit(self.record, self._usage, now_s)
        if self.is_complete:
            self.is_closed = self._keeps_permit = self._is_released
            self._end(_OK)
        else:  # from here on the stream is limited as a whole, no longer by the deadline
            self._kept.pass_over(self._output_chars)
            self._limits.end_in(self._started_s + self.total_ms / 1000 - now_s)
        return self._buffered

    @property
    def unsure_confidence(self) -> float | None:
        """The confidence of an answer that only the gate refused, and that is not blank; None for any other attempt."""
        is_unsure = isinstance(self.error, LowConfidence) and self.is_complete
        return self._confidence if is_unsure and not has_blank_choice(self._buffered) else None

    def commit_unsure(self) -> list[Delta]:
        """Serve an answer although the gate refused it, because no other answer was surer; see `commit`. The attempt
        has ended and stays recorded as it was."""
        self._record_validation()
        self._context.commit(self.record, self._usage, self._clock.now_s())
        self._context.mark_unsure(self._confidence)
        return self._buffered

    def lasted_s(self) -> float:
        """How long the target has taken so far."""
        now_s = self._clock.now_s()
        return now_s - self._started_s - self._clock.stalled_s(self._started_s, now_s)

    def lose_hedge(self) -> None:
        """Record that another attempt of this request was faster."""
        self._end(Reason.HEDGE)

    async def more(self, send: Send | None = None, relay: Relay | None = None) -> list[Delta]:
        """The deltas after the buffered ones, as many as have arrived; none at the end. Raises AttemptFailed, after the
        deltas before the fault; fallback is no longer possible. `send`, `relay`: see `push_deltas`."""
        if self.error is not None:
            raise self.error
        if self._is_ended or self._deltas is None:
            return []
        found: list[Delta] = []
        try:
            if send is not None and self._validation is None:
                text = None if relay is None else self._relaying(relay)
                await push_deltas(self._deltas, self._limits, self._observe, send, text, time_out=self._time_out)
            delta = await self._next(self._deltas)
            if delta is not None:
                for each in (delta, *self._arrived()):
                    if each is not delta:
                        self._observe(each)
                    if self._validation is not None:
                        if self._validation.keeps_text:
                            self._kept.keep_output(self._output_chars)
                        self._validation.feed(each)
                    found.append(each)
                return found
            if self._validation is not None:
                self._validation.finish([])
        except AttemptFailed as error:
            self._fail(error)
            if not found:
                raise
            return found
        self._record_validation()
        self._end(AttemptOutcome.OK)
        await self.aclose()
        return []

    def _record_validation(self) -> None:
        if self._validation is not None:
            self._context.record_validation(self._validation.result, self._validation.took_ms)

    async def aclose(self) -> None:
        """Return the connection, or close it if the response is incomplete: the attempt then counts as cancelled."""
        if self.is_closed:
            return
        self.is_closed = True
        if not self._is_ended:
            self._end(AttemptOutcome.CANCELLED)
        deltas, response = (None, None) if self._is_released else (self._deltas, self._response)
        if deltas is not None and id(deltas) != id(response):  # a response may be its own iterator
            await deltas.aclose()
        if response is not None:
            await response.aclose()
        is_doubtful = self._asked is not None and isinstance(self.error, LowConfidence)  # its answers may be served
        if not (self._is_committed or is_doubtful or self is self._context.surest):
            self.forget()

    def forget(self) -> None:
        """Keep nothing of the response: it will not be served."""
        self._buffered = []
        if self._holding is not None:
            self._holding.add(-self._held_bytes)
            self._holding = None

    def _take_whole(self, deltas: Deltas) -> bool:
        """Take a whole response that has arrived. False: wait for it."""
        whole: Callable[[], Delta | None] | None = getattr(deltas, "whole", None)  # see `ports.Deltas`
        delta = whole() if whole is not None else None
        if delta is None:
            return False
        self._is_released = True
        self._observe(delta)
        self._buffered.append(delta)
        if self._validation is not None:
            self._validation.feed(delta)
        self._complete(self.record.first_byte_ms)
        return True

    async def _receive_whole(self, deltas: Deltas) -> None:
        """The one delta of a whole response, and what a target that fails sends before. Its bytes are counted where
        they are read."""
        validation, parts = self._validation, 0
        while not self._has_answer or not self._buffered:
            delta = await anext(deltas, None)
            if delta is None:
                break
            parts += 1
            if delta.data or delta.pieces:
                self._observe(delta)
            if delta.data:
                self._buffered.append(delta)
                if validation is not None:
                    validation.feed(delta)
            elif delta.pieces and validation is not None:  # of the response, in progress; otherwise a heartbeat
                validation.watch(delta)
        self._complete(self.record.first_byte_ms if parts == 1 else None)

    async def _receive_beginning(self, deltas: Deltas) -> None:
        """The deltas of a stream that must be buffered; all of them, if the whole response must be."""
        buffered, content_bytes = self._buffered, 0
        while (delta := await self._next(deltas)) is not None:
            if len(buffered) >= _MAX_EMPTY_DELTAS and is_empty(delta):
                continue  # some targets send them while they think
            buffered.append(delta)
            self._kept.keep(len(delta.data) + len(delta.original))
            if self._validation is not None:
                self._validation.feed(delta)  # fail early, not only at the end of the response
            if self._needed_bytes is not None:
                content_bytes += bytes_of_content(delta)
                if content_bytes >= self._needed_bytes:
                    return
        self._complete(None)

    def _complete(self, arrived_ms: float | None) -> None:
        """The whole response has arrived, now if `arrived_ms` is None. Raises UpstreamError if it has no content."""
        if not self._has_answer:
            raise UpstreamError("The target's response is empty.", detail="empty answer")
        self.is_complete = True
        # Its validation is not the target's time.
        self.record.ended_ms = self._arrived_ms(self._clock.now_s()) if arrived_ms is None else arrived_ms

    def _call(self) -> Call:
        """What is asked of the target, which is told when the whole response must be complete."""
        context, left_ms = self._context, self.limit_ms if self._needed_bytes is None else self.total_ms
        return Call(
            target=self.candidate.target,
            query=context.query,
            left_ms=left_ms if left_ms < inf else None,
            validation_error=None if context.last_error is None else context.validation_error,
            ignored=self.record.ignored,
            questions=self._asked,
            span_id=self.record.span_id,
            # Where the surest answer may be served, no answer ends early.
            min_confidence=None if context.plan.serves_surest else self._minimum,
            wants_logprobs=self._minimum is not None and needs_logprobs(self.candidate, context.query),
        )

    def _validate(self) -> None:
        """All checks on a complete response before its first byte is sent; raises AttemptFailed."""
        if self._asked is not None and (answers := self._context.decisions) is not None:
            [whole], is_last = self._buffered, self.is_last
            self._buffered = [answers.accept(self._asked, whole, self.candidate, usage=self._usage, is_last=is_last)]
            return
        if not self.is_last and is_refusal(self._buffered):
            raise Refused("The target declined to answer.", detail="declined")
        if self._validation is not None:
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

    def _fail(self, error: AttemptFailed) -> None:
        self.error = error
        if error.retry_after_s is not None:  # the target is called again after that, so the client may come back then
            error.retry_after_s = min(error.retry_after_s, self.candidate.target.retry_after_max_s)
        self._end(error.reason, error)
        if self._context.plan.serves_surest and self.unsure_confidence is not None:
            self._context.keep_surest(self)

    def _end(self, outcome: Reason | AttemptOutcome, error: AttemptFailed | None = None) -> None:
        """Complete the record and release the permit; only the first call has an effect."""
        if self._is_ended:
            return
        self._is_ended = True
        now_s, record, price = self._clock.now_s(), self.record, self.candidate.target.price
        if outcome is _OK and not self._has_finish_reason:
            outcome = AttemptOutcome.INCOMPLETE
        record.outcome = outcome
        if not self.is_complete:
            record.ended_ms = self._arrived_ms(now_s)
        if self._usage is not None:
            record.usage = self._usage if price is None else priced(self._usage, price)
        elif record.first_byte_ms is not None or outcome is AttemptOutcome.CANCELLED:
            # Usage follows at the end of a response, and some targets do not report any.
            record.estimate = estimate_usage(self._context.query.prompt_chars, self._output_chars, price)
        if error is None and record.first_byte_ms is not None:
            record.status = 200
        else:
            record.status = http_status(self._response, error, has_data=record.first_byte_ms is not None)
        if error is not None:
            describe_error(record, error, (now_s - self._started_s) * 1000, self._context.plan)
        if not self._keeps_permit:
            self._permit.release(record, now_s)
        self._context.end_attempt(self.candidate, record, error)

    def release(self) -> None:
        """Release the permit that a whole answer kept, so that it did not wait for that; once."""
        if self._keeps_permit:
            self._keeps_permit = False
            self._permit.release(self.record, self._clock.now_s())
