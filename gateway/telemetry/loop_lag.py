"""Measures the lag of the running event loop with a timer."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from gateway.reliability.loop_lag import MARK_EVERY_S, LoopLag

REPORT_EVERY_S: Final = 0.1


async def watch_loop(
    lag: LoopLag, report: Callable[[float], None], *, clock: Callable[[], float] = time.monotonic
) -> None:
    """Mark the turns of the loop until cancelled. `report` receives the longest lag of each tenth of a second."""
    loop = asyncio.get_running_loop()
    worst_s, reported_s = 0.0, clock()
    timer: asyncio.Handle | None = None

    def mark() -> None:
        nonlocal timer, worst_s, reported_s
        now_s = clock()
        worst_s = max(worst_s, lag.mark(now_s))
        if now_s - reported_s >= REPORT_EVERY_S:
            report(worst_s)
            worst_s, reported_s = 0.0, now_s
        timer = loop.call_later(MARK_EVERY_S, mark)

    mark()
    try:
        await loop.create_future()
    finally:
        if timer is not None:
            timer.cancel()
