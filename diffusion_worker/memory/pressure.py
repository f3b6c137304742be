"""Memory pressure: the level of countermeasures for a memory usage, with hysteresis.

Pure: usage and `now` (seconds) are arguments. The level rises at once and falls one at a time.
"""

from diffusion_worker.types.status import Pressure

# Share of the memory limit from which a level applies; it is left HYSTERESIS below.
THRESHOLDS: dict[Pressure, float] = {Pressure.PREFIX_CACHE: 0.85, Pressure.BATCH: 0.92, Pressure.ADMISSION: 0.96}
HYSTERESIS = 0.05
HOLD_S = 1.0  # between two falls of the level: freed memory shows up with a delay
# Share of max_num_seqs that may run together.
BATCH_SHARE: dict[Pressure, float] = {
    Pressure.NONE: 1.0,
    Pressure.PREFIX_CACHE: 1.0,
    Pressure.BATCH: 0.5,
    Pressure.ADMISSION: 0.25,
}


class PressureMonitor:
    """Tracks the current memory-pressure level."""

    def __init__(self) -> None:
        self.level = Pressure.NONE
        self._changed_at = float("-inf")

    def update(self, used: int, limit: int, now: float) -> Pressure:
        """Take in the memory usage in bytes; returns the current level. A limit of 0 means unknown: no pressure."""
        share = used / limit if limit > 0 else 0.0
        reached = max((level for level, least in THRESHOLDS.items() if share >= least), default=Pressure.NONE)
        if reached > self.level:
            self._set_level(reached, now)
        elif self.level and share < THRESHOLDS[self.level] - HYSTERESIS and now - self._changed_at >= HOLD_S:
            self._set_level(Pressure(self.level - 1), now)
        return self.level

    def _set_level(self, level: Pressure, now: float) -> None:
        self.level, self._changed_at = level, now
