"""What to give up while memory runs short, and when to take it back: a ladder with a table of rungs.

Pure: the reading and `now` (seconds) are arguments. Rungs are climbed at once and left one at a time.
"""

from diffusion_worker.types.status import Pressure

# Share of the limit from which a rung holds; it is left RELIEF below.
THRESHOLDS: dict[Pressure, float] = {Pressure.PREFIX_CACHE: 0.85, Pressure.BATCH: 0.92, Pressure.ADMISSION: 0.96}
HYSTERESIS = 0.05
HOLD_S = 1.0  # before another rung is left: what was given back takes a moment to show
# Share of the rows that may advance together.
BATCH_SHARE: dict[Pressure, float] = {
    Pressure.NONE: 1.0,
    Pressure.PREFIX_CACHE: 1.0,
    Pressure.BATCH: 0.5,
    Pressure.ADMISSION: 0.25,
}


class PressureMonitor:
    """The present rung."""

    def __init__(self) -> None:
        self.level = Pressure.NONE
        self._changed_at = float("-inf")

    def update(self, used: int, limit: int, now: float) -> Pressure:
        """Take in a reading in bytes; returns the rung that holds now. A limit of 0 is unknown and presses nobody."""
        share = used / limit if limit > 0 else 0.0
        reached = max((level for level, least in THRESHOLDS.items() if share >= least), default=Pressure.NONE)
        if reached > self.level:
            self._set_level(reached, now)
        elif self.level and share < THRESHOLDS[self.level] - HYSTERESIS and now - self._changed_at >= HOLD_S:
            self._set_level(Pressure(self.level - 1), now)
        return self.level

    def _set_level(self, level: Pressure, now: float) -> None:
        self.level, self._changed_at = level, now
