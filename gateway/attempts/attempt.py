"""One call to one candidate: up to the point of no return, where its answer may leave, and beyond.

Knows the request's journey and one door. Before that point every fault is an AttemptFailed, and somebody else may be
asked; behind it a fault can only end the answer.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from math import inf
from typing import Final

from gateway.attempts.request_context import RequestContext
from gateway.attempts.response_validation import ResponseValidation
from gateway.decision import AttemptRecord
from gateway.enums import AttemptOutcome, Reason
from gateway.errors import AttemptFailed, DeadlineExceeded, LowConfidence, Refused, UpstreamError
from gateway.ports import Clock, Permit, Reply, Upstream
from gateway.types import Call, Candidate, Delta, Usage
from gateway.validation.json_schema import SchemaCache

MAX_HELD_BYTES: Final = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptParams:
    """A candidate's turn in a request: leave to call it, its door, and what depends on who else could be asked.

    `limit_ms` is the time until its answer must be ready to leave, None without a deadline.
    """

    candidate: Candidate
    permit: Permit
    upstream: Upstream
    limit_ms: float | None = None
    is_last: bool = True  # nobody else is left, so that what it says must do
    hedge: bool = False


class Attempt:
    """However it ends, its permit is handed back exactly once and its connection is given back or closed."""

    def __init__(self, context: RequestContext, turn: AttemptParams, *, clock: Clock, schemas: SchemaCache) -> None:
        self.candidate = turn.candidate
        self.reason: Reason | None = None  # why it failed, if it did
        self._journey = context
        self._turn = turn
        self._clock = clock
        self._reply: Reply | None = None
        self._deltas: AsyncGenerator[Delta, None] | None = None
        self._held: list[Delta] = []
        self._span_id = context.next_span_id()
        self._started_ms = context.at_ms(clock.now_s())
        self._first_byte_ms: float | None = None
        self._first_token_ms: float | None = None
        self._usage: Usage | None = None
        self._scrutiny = ResponseValidation(context.query, context.plan.checks, schemas, clock.now_s)
        self.is_whole = False  # is all of the answer held? Then nothing follows
        self._past_return = False  # the point of no return: from here on the answer may leave
        self._ended = False

    async def open(self) -> bool:
        """Call, hold back, check: may the answer leave? If not, the journey knows why and the target is hung up on.

        So it is, too, when cancelled. What was opened is then either served (`win`) or given up (`lose`, `abandon`).
        """
        ready = False
        try:
            async with asyncio.timeout(_seconds(self._turn.limit_ms)):
                self._held = await self._receive(self._turn.upstream)
            if self.is_whole:
                self._pass()
            ready = True
        except TimeoutError:
            self._fail(DeadlineExceeded("The time for this request is over.", detail=self._overdue()))
        except AttemptFailed as fault:
            self._fail(fault)
        finally:
            if not ready:
                await self.abandon()
        return ready

    async def win(self) -> list[Delta]:
        """Behind the point of no return: what may leave at once. The rest, if any, comes from `rest`."""
        self._past_return = True
        now_s = self._clock.now_s()
        self._journey.checked(self._scrutiny.result, self._scrutiny.took_ms)
        self._journey.take(self.candidate, self._started_ms, self._usage, now_s)
        if self.is_whole:
            self._end(AttemptOutcome.OK)
            await self.abandon()
        return self._held

    def lose(self) -> None:
        """Another attempt of this request was quicker."""
        self._end(Reason.HEDGE)

    async def rest(self) -> AsyncIterator[Delta]:
        """What follows the held deltas. Raises AttemptFailed, which can no longer fall back."""
        if self._ended or self._deltas is None:
            return
        try:
            while (delta := await self._next(self._deltas)) is not None:
                self._scrutiny.read_along(delta)
                yield delta
            self._scrutiny.judge([])
        except AttemptFailed as fault:
            self._fail(fault)
            raise
        self._journey.checked(self._scrutiny.result, self._scrutiny.took_ms)
        self._end(AttemptOutcome.OK)
        await self.abandon()

    async def abandon(self) -> None:
        """Give the connection back, or hang up on an answer that is not complete: then the attempt was cancelled."""
        self._end(AttemptOutcome.CANCELLED)
        if self._deltas is not None:
            await self._deltas.aclose()
        if self._reply is not None:
            await self._reply.aclose()

    async def _receive(self, upstream: Upstream) -> list[Delta]:
        """As much of the answer as must be seen before any of it may leave."""
        query, rejected = self._journey.query, self._journey.rejected
        call = Call(
            target=self.candidate.target,
            query=query,
            left_ms=self._turn.limit_ms,
            rejected=rejected,
            span_id=self._span_id,
        )
        self._reply = await upstream.send(call)
        self._deltas = self._reply.deltas()
        # A confidence comes with the end of an answer.
        wants_whole = not query.stream or self.candidate.min_confidence is not None
        wanted = None if wants_whole else self._scrutiny.wanted_bytes
        held: list[Delta] = []
        size = told = 0
        async for delta in self._deltas:
            self._saw(delta)
            held.append(delta)
            size += len(delta.data)
            if size > MAX_HELD_BYTES:
                raise UpstreamError("The target's answer is too large to be checked.", detail="answer too large")
            self._scrutiny.read_along(delta)  # no need to wait for the end of a lost answer
            told += _told_bytes(delta)
            if wanted is not None and told >= wanted:
                return held
        if not held:
            raise UpstreamError("The target's answer is empty.", detail="empty answer")
        self.is_whole = True
        return held

    def _pass(self) -> None:
        """Everything an answer must pass before its first byte leaves; raises AttemptFailed."""
        if not self._turn.is_last and _is_refusal(self._held):
            raise Refused("The target declined to answer.", detail="declined")
        self._held = self._scrutiny.judge(self._held)
        self._check_confidence()

    def _check_confidence(self) -> None:
        wanted = self.candidate.min_confidence
        if wanted is None:
            return
        confidence = self._usage.confidence if self._usage else None
        if confidence is None:  # the route asked for a witness, and there is none
            raise LowConfidence("The target did not say how sure it is.", detail="no confidence given")
        if confidence < wanted:
            detail = f"confidence {confidence:.3f} < {wanted:g}"
            raise LowConfidence(f"The target doubts its own answer: {detail}.", detail=detail)

    async def _next(self, deltas: AsyncIterator[Delta]) -> Delta | None:
        limit_s = _seconds(self._journey.left_ms(self._clock.now_s()))
        try:
            if limit_s is None:  # a time-out that never comes costs as much as any
                delta = await anext(deltas, None)
            else:
                async with asyncio.timeout(limit_s):
                    delta = await anext(deltas, None)
        except TimeoutError:
            raise DeadlineExceeded("The request's deadline passed.", detail="deadline passed mid-stream") from None
        if delta is not None:
            self._saw(delta)
        return delta

    def _saw(self, delta: Delta) -> None:
        if self._first_byte_ms is None:
            self._first_byte_ms = self._journey.at_ms(self._clock.now_s())
        if self._first_token_ms is None and self._journey.query.stream and _told_bytes(delta):
            self._first_token_ms = self._journey.at_ms(self._clock.now_s())
        if delta.usage is not None:
            self._usage = delta.usage
            if self._past_return:
                self._journey.used(delta.usage)

    def _fail(self, fault: AttemptFailed) -> None:
        self.reason = fault.reason
        self._end(fault.reason, fault)

    def _overdue(self) -> str:
        left_ms = self._journey.left_ms(self._clock.now_s())
        return "deadline passed" if left_ms is None or left_ms <= 0 else "its part of the deadline passed"

    def _end(self, outcome: Reason | AttemptOutcome, fault: AttemptFailed | None = None) -> None:
        """The first word about how it ended holds."""
        if self._ended:
            return
        self._ended = True
        now_s = self._clock.now_s()
        attempt = AttemptRecord(
            target=self.candidate.target.title,
            url=self.candidate.target.server,
            started_ms=self._started_ms,
            ended_ms=self._journey.at_ms(now_s),
            outcome=outcome,
            first_byte_ms=self._first_byte_ms,
            stream=self._journey.query.stream,
            first_token_ms=self._first_token_ms,
            detail=fault.detail if fault else "",
            probe=self._turn.permit.probe,
            hedge=self._turn.hedge,
            usage=self._usage,
            span_id=self._span_id,
            budget_ms=_budget_ms(self.candidate),
        )
        self._turn.permit.release(attempt, now_s)
        self._journey.end(self.candidate, attempt, fault)


def _budget_ms(candidate: Candidate) -> float | None:
    promised_ms = candidate.slo.p95_ms if candidate.slo else inf
    return promised_ms if promised_ms < inf else None


def _seconds(limit_ms: float | None) -> float | None:
    return None if limit_ms is None else max(0.0, limit_ms / 1000)


def _told_bytes(delta: Delta) -> int:
    """How much of an answer it carries. The first chunk of a stream usually names a role and nothing else."""
    return sum(
        len(piece.text.encode("utf-8", "surrogatepass"))
        + len(piece.refusal)
        + sum(len(call.name) + len(call.arguments) for call in piece.tool_calls)
        for piece in delta.pieces
    )


def _is_refusal(deltas: list[Delta]) -> bool:
    """Did every choice decline, by its own words or by a filter's?"""
    pieces = [piece for delta in deltas for piece in delta.pieces]
    declined = {piece.index for piece in pieces if piece.refusal or piece.finish_reason == "content_filter"}
    return bool(pieces) and declined == {piece.index for piece in pieces}
