"""What to give up while memory runs short, and when to take it back: a ladder with a table of rungs.

Pure: the reading and `now` (seconds) are arguments. Rungs are climbed at once and left one at a time.
"""

from diffusion_worker.types.generation import Pressure

# Share of the limit from which a rung holds; it is left RELIEF below.
RUNGS: dict[Pressure, float] = {Pressure.RETAINED: 0.85, Pressure.ROWS: 0.92, Pressure.DOOR: 0.96}
RELIEF = 0.05
HOLD_S = 1.0  # before another rung is left: what was given back takes a moment to show
# Share of the rows that may advance together.
ROWS_SHARE: dict[Pressure, float] = {
    Pressure.NONE: 1.0,
    Pressure.RETAINED: 1.0,
    Pressure.ROWS: 0.5,
    Pressure.DOOR: 0.25,
}


class Ladder:
    """The present rung."""

    def __init__(self) -> None:
        self.rung = Pressure.NONE
        self._changed_at = float("-inf")

    def read(self, used: int, limit: int, now: float) -> Pressure:
        """Take in a reading in bytes; returns the rung that holds now. A limit of 0 is unknown and presses nobody."""
        share = used / limit if limit > 0 else 0.0
        reached = max((rung for rung, least in RUNGS.items() if share >= least), default=Pressure.NONE)
        if reached > self.rung:
            self._move(reached, now)
        elif self.rung and share < RUNGS[self.rung] - RELIEF and now - self._changed_at >= HOLD_S:
            self._move(Pressure(self.rung - 1), now)
        return self.rung

    def _move(self, rung: Pressure, now: float) -> None:
        self.rung, self._changed_at = rung, now
