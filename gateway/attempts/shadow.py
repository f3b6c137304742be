"""Shadow traffic: a share of the requests is asked of one more target, and the answers are compared.

Nobody waits for it and what it says never leaves: it begins when the real answer has been sent, and at most a few run
at once. Knows neither routes nor how a target is asked: that is told by the caller.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

import orjson

from gateway.attempts.request_context import RequestContext
from gateway.attempts.response import GatewayResponse
from gateway.decision import Mirrored
from gateway.enums import Likeness, Outcome
from gateway.errors import AttemptFailed
from gateway.policy_types import Checks
from gateway.ports import Clock, Observer
from gateway.types import Delta, Plan

MOST_AT_ONCE: Final = 8
_LONGEST_MS: Final = 60_000.0

Ask = Callable[[RequestContext], Awaitable[GatewayResponse]]


class Shadows:
    """All shadows of a process; close it before the doors. `ask` plays a journey that nobody hears of."""

    def __init__(self, ask: Ask, observer: Observer, clock: Clock) -> None:
        self._ask = ask
        self._observer = observer
        self._clock = clock
        self._running: set[asyncio.Task[None]] = set()

    def recorder(self, context: RequestContext, sample: float) -> "ResponseRecorder | None":
        """Somebody to hear the real answer, if this request is among those that are mirrored."""
        shadow = context.plan.shadow
        if shadow is None or sample >= shadow.share or len(self._running) >= MOST_AT_ONCE:
            return None
        return ResponseRecorder(lambda text: self._start(context, text))

    async def aclose(self) -> None:
        """Give up whatever still runs."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _start(self, context: RequestContext, text: str) -> None:
        task = asyncio.create_task(self._run(context, text), name="shadow")
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _run(self, served: RequestContext, text: str) -> None:
        context = self._mirror_of(served)
        answer = await self._ask(context)
        heard = ResponseRecorder(lambda _: None)
        try:
            async for delta in answer.deltas():
                heard.hear(delta)
        except AttemptFailed:
            context.outcome = Outcome.ERROR  # which is a result, too
        finally:
            await answer.aclose()
        decision = answer.decision(self._clock.now_s())
        likeness = Likeness.FAILED
        if decision.outcome is Outcome.OK:
            likeness = Likeness.SAME if _alike(text, heard.text) else Likeness.DIFFERENT
        target = context.plan.candidates[0].target.title
        self._observer.mirrored(Mirrored(route=context.plan.route, target=target, likeness=likeness))

    def _mirror_of(self, served: RequestContext) -> RequestContext:
        """The same request as if it had come now, with one candidate."""
        plan, shadow = served.plan, served.plan.shadow
        assert shadow is not None
        alone = Plan(
            policy=plan.policy,
            route=plan.route,
            candidates=(shadow.candidate,),
            deadline_ms=min(plan.deadline_ms or _LONGEST_MS, _LONGEST_MS),
            private=plan.private,
            checks=plan.checks and Checks(),  # nobody waits, so nothing needs to be sent before it is whole
        )
        now_s = self._clock.now_s()
        trace = served.query.trace and replace(served.query.trace, flags=0, is_recorded=False)  # nobody waited for it
        query = replace(served.query, received_s=now_s, trace=trace)
        return RequestContext(query, served.classification, alone, wall_s=self._clock.wall_s(), now_s=now_s)


class ResponseRecorder:
    """Hears an answer as it is sent; `tell` gets its text when it was sent whole."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._texts: list[str] = []

    @property
    def text(self) -> str:
        """What was said, tool calls included, by every choice in order of arrival."""
        return "".join(self._texts)

    def hear(self, delta: Delta) -> None:
        """One delta of the answer."""
        for piece in delta.pieces:
            self._texts.append(piece.text)
            self._texts.extend(call.name + call.arguments for call in piece.tool_calls)

    def done(self) -> None:
        """It was the last."""
        self._tell(self.text)


def _alike(one: str, other: str) -> bool:
    """The same JSON, or the same text but for white space at its ends."""
    try:
        return bool(orjson.loads(one) == orjson.loads(other))
    except orjson.JSONDecodeError:
        return one.strip() == other.strip()
