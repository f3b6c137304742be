"""Hedging: start a second attempt if the first one is slow, and serve the first that succeeds.

The caller decides when to hedge and which candidate the second attempt uses.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from gateway.attempts.attempt import Attempt
from twolane.process.http.byte_budget import hold_apart

_TIMER_S: Final = 0.001  # how coarse timers are
Running = dict[asyncio.Task[Attempt | None], Attempt]


async def open_hedged(first: Attempt, *, after_s: float, second: Callable[[], Attempt | None]) -> Attempt | None:
    """The attempt whose response may be served, or None if all failed. `second` is called once, after `after_s`.

    The other attempt is cancelled before this returns; if this call is cancelled, both are.
    """
    running: Running = {asyncio.create_task(_open(first)): first}
    winner: Attempt | None = None
    try:
        left_s = after_s
        while left_s > 0 and not any(task.done() for task in running):
            await asyncio.wait(running, timeout=left_s)
            left_s = after_s - first.lasted_s() - _TIMER_S  # what the gateway itself delayed does not count
        if not any(task.done() for task in running):
            hedge = second()
            if hedge is not None:
                running[asyncio.create_task(_open(hedge))] = hedge
        while running and winner is None:
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in [task for task in running if task in done]:
                if winner is None:  # if both complete at the same moment, the first attempt wins
                    del running[task]
                    winner = task.result()
        return winner
    finally:
        await _cancel(running, lost=winner is not None)


async def _open(attempt: Attempt) -> Attempt | None:
    hold_apart()
    return await attempt.open()


async def _cancel(running: Running, *, lost: bool) -> None:
    """Cancel attempts, including those that are complete and those whose task has not started."""
    for task, attempt in running.items():
        if lost:
            attempt.lose_hedge()
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    for attempt in running.values():
        await attempt.aclose()
