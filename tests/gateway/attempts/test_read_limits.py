"""Limits of reads pass exactly when they should, though one timer looks after all of them. In virtual time."""

import asyncio
from typing import Any

import pytest

from gateway.attempts.read_limits import LOOK_EVERY_S, Expired, ReadLimits
from gateway.simulation.virtual_time import run_virtual


async def read(limits: ReadLimits, seconds: float) -> float:
    """When the read ended, or when its limit passed."""
    loop = asyncio.get_running_loop()
    try:
        with limits:
            await asyncio.sleep(seconds)
    except TimeoutError:
        assert limits.expired is not None
    return loop.time()


@pytest.mark.parametrize("limit_s", [0.001, 0.1, LOOK_EVERY_S, 0.26, 1.0, 7.77, 1800.0])
def test_a_read_ends_at_its_limit(limit_s: float) -> None:
    async def main() -> float:
        return await read(ReadLimits(limit_s), 10_000)

    assert run_virtual(main()) == pytest.approx(limit_s)


def test_many_reads_end_each_at_its_own_limit() -> None:
    async def main() -> list[float]:
        return await asyncio.gather(*(read(ReadLimits(n / 7), 10_000) for n in range(1, 50)))

    assert run_virtual(main()) == pytest.approx([n / 7 for n in range(1, 50)])


def test_a_read_that_ends_at_the_moment_of_its_limit_is_too_late() -> None:
    async def main() -> Expired | None:
        limits = ReadLimits(5.0)
        await read(limits, 5.0)
        return limits.expired

    assert run_virtual(main()) is Expired.UNTIL


def test_a_long_pause_ends_a_read_and_the_time_between_two_reads_does_not_count() -> None:
    async def main() -> tuple[float, float, Expired | None]:
        limits = ReadLimits(100.0)
        limits.limit_pauses(2.0)
        first = await read(limits, 1.9)
        await asyncio.sleep(5.0)
        second = await read(limits, 10.0)
        return first, second, limits.expired

    assert run_virtual(main()) == (1.9, pytest.approx(8.9), Expired.IDLE)


def test_a_pause_may_be_limited_while_a_read_is_in_progress() -> None:
    async def main() -> float:
        limits = ReadLimits(100.0)
        asyncio.get_running_loop().call_later(1.01, limits.limit_pauses, 1.05)
        return await read(limits, 10.0)

    assert run_virtual(main()) == pytest.approx(1.05)


def test_a_read_that_begins_too_late_fails_at_once() -> None:
    async def main() -> Expired | None:
        limits = ReadLimits(1.0)
        await asyncio.sleep(2.0)
        with pytest.raises(TimeoutError), limits:
            pytest.fail("the read began")
        return limits.expired

    assert run_virtual(main()) is Expired.UNTIL


def test_a_cancellation_that_is_not_the_limit_s_stays_one() -> None:
    async def main() -> bool:
        limits = ReadLimits(50.0)
        task = asyncio.create_task(read(limits, 100.0))
        await asyncio.sleep(1.0)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled() and limits.expired is None

    assert run_virtual(main())


def test_reads_of_many_attempts_share_a_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a timer for each would cost more than the rest of the attempt."""

    async def main() -> int:
        loop = asyncio.get_running_loop()
        timers: list[float] = []
        set_timer = loop.call_at

        def call_at(when: float, *rest: Any, **more: Any) -> Any:
            timers.append(when)
            return set_timer(when, *rest, **more)

        monkeypatch.setattr(loop, "call_at", call_at)
        await asyncio.gather(*(read(ReadLimits(60.0), 0.1) for _ in range(20)))
        return len(timers)

    assert run_virtual(main()) == 1 + 20  # and those of the sleeps
