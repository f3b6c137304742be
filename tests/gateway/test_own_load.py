"""The gateway's own load is never blamed on a target: a blocked event loop, and times that belong to the gateway."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.app import SystemWorld
from gateway.policy_types import Checks, Hedge, Slo
from gateway.reliability.loop_lag import LoopLag
from gateway.telemetry.loop_lag import LoopWatch
from gateway.upstreams.scripted import says
from tests.gateway.virtual import LoopClock, run_virtual

BLOCK_S = 0.05
SLO = Slo(p95_ms=30, first_token_p95_ms=30)


class BlockedClock(LoopClock):
    """Virtual time that passes while the loop is blocked, as by other requests, in every turn."""

    def __init__(self) -> None:
        self.lag = LoopLag()

    def stalled_s(self, since_s: float, now_s: float) -> float:
        return self.lag.stalled_s(since_s, now_s)

    @contextlib.asynccontextmanager
    async def blocked(self) -> AsyncIterator[None]:
        loop: Any = asyncio.get_running_loop()

        async def block() -> None:
            while True:
                loop._virtual.now_s += BLOCK_S
                await asyncio.sleep(0)

        tasks = [
            asyncio.create_task(LoopWatch(self.lag, lambda _: None, clock=loop.time).run()),
            asyncio.create_task(block()),
        ]
        try:
            await asyncio.sleep(0)
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def blocked(
    stage: Any, requests: int, *, stream: bool = False, route: dict[str, Any] | None = None, **lines: Any
) -> Any:
    """The stage after these requests at once and a last one, all while the loop is blocked."""

    async def story() -> Any:
        clock = BlockedClock()
        scene = stage(clock=clock, route=route or {"slo": SLO}, **lines)
        async with clock.blocked():
            await asyncio.gather(*(scene.send(stream=stream) for _ in range(requests)))
            await scene.send(stream=stream)
        return scene

    return run_virtual(story())


@pytest.mark.parametrize("stream", [False, True])
def test_a_quick_target_is_not_ejected_because_the_gateway_is_blocked(stage: Any, stream: bool) -> None:
    scene = blocked(stage, 40, stream=stream, fast=says("hi", before_s=0.001), quality=says("no"))
    assert {decision.target for decision in scene.listener.decisions} == {"fast"}
    assert max(attempt.elapsed_ms for attempt in attempts_of(scene)) < SLO.p95_ms
    assert min(decision.overhead_ms for decision in scene.listener.decisions) > 1000 * BLOCK_S / 2  # ours


def test_a_request_is_not_hedged_because_the_gateway_is_blocked(stage: Any) -> None:
    route = {"hedge": Hedge(after_ms=20, max_share=0.5)}
    lines = {"fast": says("hi", before_s=0.001), "quality": says("no")}
    assert not any(each.hedge for each in attempts_of(blocked(stage, 40, route=route, **lines)))
    lines["fast"] = says("hi", before_s=0.8)
    assert any(each.hedge for each in attempts_of(blocked(stage, 40, route=route, **lines)))


def attempts_of(scene: Any) -> list[Any]:
    return [attempt for decision in scene.listener.decisions for attempt in decision.attempts]


def test_a_slow_target_is_ejected_although_the_gateway_is_blocked(stage: Any) -> None:
    scene = blocked(stage, 20, fast=says("hi", before_s=0.8), quality=says("hi"))
    assert scene.attempts == {"fast": "p95_breach", "quality": "ok"}


@pytest.mark.anyio
async def test_a_real_loop_that_is_blocked_is_not_the_targets_fault_either(stage: Any) -> None:
    class World(SystemWorld):
        async def sleep(self, seconds: float) -> None:
            await asyncio.sleep(seconds)

    async def block() -> None:
        while True:
            time.sleep(BLOCK_S)  # noqa: ASYNC251 - this is what is tested
            await asyncio.sleep(0)

    lag = LoopLag()
    tasks = [asyncio.create_task(LoopWatch(lag, lambda _: None).run()), asyncio.create_task(block())]
    await asyncio.sleep(0)
    scene = stage(fast=says("hi", before_s=0.001), quality=says("no"), clock=World(lag), route={"slo": SLO})
    for _ in range(2):
        await asyncio.gather(*(scene.send() for _ in range(20)))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert {decision.target for decision in scene.listener.decisions} == {"fast"}


@pytest.mark.anyio
async def test_the_validation_of_an_answer_is_the_gateways_time(stage: Any, monkeypatch: Any) -> None:
    scene = stage(fast=says("{}", before_s=0.1), route={"checks": Checks()})

    def validate(self: Any, buffered: Any) -> Any:
        scene.clock.time_s += 5
        return buffered

    monkeypatch.setattr("gateway.attempts.response_validation.ResponseValidation.finish", validate)
    await scene.send(response_format={"type": "json_object"})
    assert scene.decision.attempts[0].elapsed_ms == pytest.approx(100)
    assert scene.decision.overhead_ms == pytest.approx(5000)


@pytest.mark.anyio
async def test_the_lag_of_the_loop_is_reported() -> None:
    lag, reports = LoopLag(), list[float]()
    task = asyncio.create_task(LoopWatch(lag, reports.append).run())
    await asyncio.sleep(0)
    while not reports or max(reports) < 0.1:
        time.sleep(0.11)  # noqa: ASYNC251 - this is what is tested
        await asyncio.sleep(0.001)
    task.cancel()
    assert max(reports) < 60


def test_an_idle_loop_is_marked_rarely_until_a_request_arrives() -> None:
    idle, busy = marked(streams=False)
    assert idle <= 25
    assert busy >= 150


def test_a_loop_of_streams_is_marked_less_often_than_one_whose_targets_are_timed() -> None:
    streaming, busy = marked(streams=True)
    assert 100 <= streaming <= 250
    assert busy >= 150


def marked(*, streams: bool) -> tuple[int, int]:
    """How often a loop is marked in ten seconds without requests that wait for a target, and in one with some."""

    async def story() -> tuple[int, int]:
        busy, marks = False, 0

        class Lag(LoopLag):
            def mark(self, now_s: float, **more: Any) -> float:
                nonlocal marks
                marks += 1
                return super().mark(now_s, **more)

        watch = LoopWatch(Lag(), lambda _: None, clock=asyncio.get_running_loop().time)
        watch.is_busy, watch.has_streams = lambda: busy, lambda: streams
        task = asyncio.create_task(watch.run())
        await asyncio.sleep(10)
        idle, busy = marks, True
        watch.wake()
        await asyncio.sleep(1)
        task.cancel()
        return idle, marks - idle

    return run_virtual(story())
