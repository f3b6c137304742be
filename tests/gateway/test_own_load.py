"""The gateway's own load is never blamed on a target: a blocked event loop, and times that belong to the gateway."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.app import SystemWorld
from gateway.policy_types import Slo
from gateway.reliability.loop_lag import LoopLag
from gateway.telemetry.loop_lag import watch_loop
from gateway.upstreams.scripted import says

pytestmark = pytest.mark.anyio
BLOCK_S = 0.05
SLO = Slo(p95_ms=30)


class RealWorld(SystemWorld):
    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@contextlib.asynccontextmanager
async def blocked_loop() -> AsyncIterator[RealWorld]:
    """Every turn of the loop is held up, as by other requests."""
    lag = LoopLag()

    async def block() -> None:
        while True:
            time.sleep(BLOCK_S)  # noqa: ASYNC251 - this is what is tested
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(watch_loop(lag, lambda _: None)), asyncio.create_task(block())]
    try:
        await asyncio.sleep(0)
        yield RealWorld(lag)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_quick_target_is_not_ejected_because_the_gateway_is_blocked(stage: Any, stream: bool) -> None:
    slo = Slo(p95_ms=30, first_token_p95_ms=30)
    async with blocked_loop() as world:
        scene = stage(fast=says("hi", before_s=0.001), quality=says("no"), clock=world, route={"slo": slo})
        for _ in range(2):
            await asyncio.gather(*(scene.send(stream=stream) for _ in range(20)))
    assert {decision.target for decision in scene.listener.decisions} == {"fast"}
    attempts = [attempt for decision in scene.listener.decisions for attempt in decision.attempts]
    assert max(attempt.elapsed_ms for attempt in attempts) < slo.p95_ms
    assert min(decision.overhead_ms for decision in scene.listener.decisions) > 1000 * BLOCK_S / 2  # ours


async def test_a_slow_target_is_ejected_although_the_gateway_is_blocked(stage: Any) -> None:
    async with blocked_loop() as world:
        scene = stage(fast=says("hi", before_s=0.8), quality=says("hi"), clock=world, route={"slo": SLO})
        await asyncio.gather(*(scene.send() for _ in range(20)))
        await scene.send()
    assert scene.attempts == {"fast": "p95_breach", "quality": "ok"}


async def test_the_validation_of_an_answer_is_the_gateways_time(stage: Any, monkeypatch: Any) -> None:
    scene = stage(fast=says("{}", before_s=0.1))

    def validate(self: Any, buffered: Any) -> Any:
        scene.clock.time_s += 5
        return buffered

    monkeypatch.setattr("gateway.attempts.response_validation.ResponseValidation.finish", validate)
    await scene.send()
    assert scene.decision.attempts[0].elapsed_ms == pytest.approx(100)
    assert scene.decision.overhead_ms == pytest.approx(5000)


async def test_the_lag_of_the_loop_is_reported() -> None:
    lag, reports = LoopLag(), list[float]()
    task = asyncio.create_task(watch_loop(lag, reports.append))
    await asyncio.sleep(0)
    while not reports or max(reports) < 0.1:
        time.sleep(0.11)  # noqa: ASYNC251 - this is what is tested
        await asyncio.sleep(0.001)
    task.cancel()
    assert max(reports) < 60
