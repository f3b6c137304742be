"""Shadow traffic: send a copy of a share of the requests to another target, and compare the responses.

A shadow request starts after the real response was sent, its response is discarded, and at most `MAX_CONCURRENT` run at
once, as far as the byte budget allows. The caller provides the function that sends a request.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Final

from gateway.attempts.request_context import RequestContext
from gateway.attempts.response import GatewayResponse
from gateway.decision import Mirrored
from gateway.enums import Outcome, ShadowResult, TargetApi
from gateway.errors import AttemptFailed
from gateway.policy_types import Checks
from gateway.ports import Clock, Observer
from gateway.types import Delta, Plan
from twolane.process import exact_json
from twolane.process.http.byte_budget import BudgetExceededError, held_beside

MAX_CONCURRENT: Final = 8
MAX_COMPARED_CHARS: Final = 1 << 20  # of a response; a longer one is not mirrored
_MAX_DEADLINE_MS: Final = 60_000.0

Handle = Callable[[RequestContext], Awaitable[GatewayResponse]]


class Shadows:
    """All shadow requests of a process; close it before the upstream clients. `handle` sends a request unreported."""

    def __init__(self, handle: Handle, observer: Observer, clock: Clock) -> None:
        self._handle = handle
        self._observer = observer
        self._clock = clock
        self._running: set[asyncio.Task[None]] = set()

    def recorder(self, context: RequestContext, sample: float) -> "ResponseRecorder | None":
        """A recorder for the real response, if this request is sampled for shadowing."""
        shadow = context.plan.shadow
        if context.query.beyond_chat.api in (TargetApi.EMBEDDINGS, TargetApi.DECISIONS):  # there is no text to compare
            return None
        if shadow is None or sample >= shadow.share or len(self._running) >= MAX_CONCURRENT:
            return None
        return ResponseRecorder(lambda text: self._start(context, text))

    async def aclose(self) -> None:
        """Cancel the shadow requests in progress."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _start(self, context: RequestContext, text: str) -> None:
        task = asyncio.create_task(self._run(context, text), name="shadow")
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _run(self, served: RequestContext, text: str) -> None:
        with suppress(BudgetExceededError), held_beside(len(served.query.body)):
            await self._compare(served, text)

    async def _compare(self, served: RequestContext, text: str) -> None:
        context = self._shadow_context(served)
        response = await self._handle(context)
        recorder = ResponseRecorder(lambda _: None)
        try:
            async for delta in response.deltas():
                recorder.feed(delta)
        except AttemptFailed:
            context.outcome = Outcome.ERROR
        finally:
            await response.aclose()
        decision = response.decision(self._clock.now_s())
        result = ShadowResult.FAILED
        if decision.outcome is Outcome.OK:
            result = ShadowResult.SAME if _are_equal(text, recorder.text) else ShadowResult.DIFFERENT
        target = context.plan.candidates[0].target.policy_name
        self._observer.mirrored(Mirrored(route=context.plan.route, target=target, result=result))

    def _shadow_context(self, served: RequestContext) -> RequestContext:
        """The same request as if it had arrived now, with the shadow as its only candidate."""
        plan, shadow = served.plan, served.plan.shadow
        assert shadow is not None
        shadow_plan = Plan(
            policy=plan.policy,
            route=plan.route,
            candidates=(shadow.candidate,),
            deadline_ms=min(plan.deadline_ms or _MAX_DEADLINE_MS, _MAX_DEADLINE_MS),
            total_ms=min(plan.total_ms, _MAX_DEADLINE_MS),
            private=plan.private,
            locations=plan.locations,
            checks=plan.checks and Checks(),  # no client waits, so the whole response is buffered
        )
        now_s = self._clock.now_s()
        trace = served.query.trace and served.query.trace.unsampled()  # not part of the trace
        query = replace(served.query, received_s=now_s, trace=trace)
        return RequestContext(query, served.classification, shadow_plan, wall_s=self._clock.wall_s(), now_s=now_s)


class ResponseRecorder:
    """Records a response as it is sent; calls `on_done` with its text if it was sent completely and is not longer than
    MAX_COMPARED_CHARS."""

    def __init__(self, on_done: Callable[[str], None]) -> None:
        self._on_done = on_done
        self._texts: list[str] = []
        self._chars = 0

    @property
    def text(self) -> str:
        """The text and tool calls of all choices, in order of arrival."""
        return "".join(self._texts)

    def feed(self, delta: Delta) -> None:
        """Record one delta of the response."""
        for piece in delta.pieces:
            self._record(piece.text)
            for call in piece.tool_calls:
                self._record(call.name + call.arguments)

    def done(self) -> None:
        """The response is complete."""
        if self._chars <= MAX_COMPARED_CHARS:
            self._on_done(self.text)

    def _record(self, text: str) -> None:
        self._chars += len(text)
        if self._chars <= MAX_COMPARED_CHARS:
            self._texts.append(text)
        else:
            self._texts.clear()


def _are_equal(one: str, other: str) -> bool:
    """Equal as JSON, or as text without surrounding white space."""
    try:
        return bool(exact_json.loads(one) == exact_json.loads(other))
    except exact_json.JsonError:
        return one.strip() == other.strip()
