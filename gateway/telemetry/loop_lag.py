"""Measures the lag of the running event loop with a timer."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from gateway.reliability.loop_lag import MARK_EVERY_S, LoopLag

IDLE_EVERY_S: Final = 0.5  # nobody waits for the loop; every wake-up costs more than a mark
STREAMS_EVERY_S: Final = 0.05  # no target's beginning is timed, only the ends of streams
REPORT_EVERY_S: Final = 0.1


class LoopWatch:
    """Marks the turns of the loop, rarely while `is_busy` is false, and still more rarely without streams. `report`
    receives the longest lag since the last report, ten times a second or at every mark."""

    def __init__(
        self, lag: LoopLag, report: Callable[[float], None], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.lag = lag
        self.is_busy: Callable[[], bool] = lambda: True
        self.has_streams: Callable[[], bool] = lambda: False  # asked if it is not busy
        self._report = report
        self.clock = clock
        self._timer: asyncio.Handle | None = None
        self.is_idle = False  # marks are rare
        self._worst_s = 0.0
        self._reported_s = clock()

    async def run(self) -> None:
        """Watch the loop until cancelled."""
        self._loop = asyncio.get_running_loop()
        self._mark()
        try:
            await self._loop.create_future()
        finally:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def wake(self) -> None:
        """A request has arrived: mark often from now on."""
        if self.is_idle and self._timer is not None:
            self._timer.cancel()
            self._mark()

    def _mark(self) -> None:
        now_s, lag = self.clock(), self.lag
        self.is_idle = is_idle = not self.is_busy()
        wait_s = lag.mark(now_s, every_s=self._rare_s() if is_idle else MARK_EVERY_S)
        self._worst_s = max(self._worst_s, lag.late_s)
        if now_s - self._reported_s >= REPORT_EVERY_S:
            self._report(self._worst_s)
            self._worst_s, self._reported_s = 0.0, now_s
        self._timer = self._loop.call_later(wait_s, self._mark) if wait_s else self._loop.call_soon(self._mark)

    def _rare_s(self) -> float:
        return STREAMS_EVERY_S if self.has_streams() else IDLE_EVERY_S
