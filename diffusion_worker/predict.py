"""How much work a sequence still is, and how long work takes: learnt from what was observed, pure arithmetic.

A step costs a + b * rows seconds; a canvas needs as many steps as canvases have needed lately, corrected by how its own
entropy falls; an answer is as long as answers have been lately. Knows no queue and no clock.
"""

import math

from diffusion_worker.records import Reading
from diffusion_worker.sequence import Sequence

_NEWEST = 0.1  # weight of the newest observation in a running mean
_FORGETS = 0.98  # weight that older steps keep in the fit of their cost


class Forecast:
    """The figures learnt so far. All times in seconds."""

    def __init__(self) -> None:
        self._cost = _Line()
        self._steps: float | None = None  # of a block
        self._tokens: dict[Reading, float] = {}  # of an answer
        self._bias = 0.0  # log of how much longer waits have been than predicted

    def took_step(self, seconds: float, rows: int) -> None:
        """One iteration is over."""
        self._cost.add(rows, seconds)

    def sealed_block(self, steps: int) -> None:
        """A canvas needed that many steps."""
        self._steps = _running_mean(self._steps, steps)

    def finished(self, sequence: Sequence) -> None:
        """An answer is complete."""
        reading = sequence.ask.reading
        self._tokens[reading] = _running_mean(self._tokens.get(reading), sequence.emitted)

    def waited(self, predicted_s: float, actual_s: float) -> None:
        """A sequence got its place after so long, where `predicted_s` had been foretold."""
        if predicted_s > 0.0 and actual_s > 0.0:
            self._bias += _NEWEST * math.log(actual_s / predicted_s)
            self._bias = min(max(self._bias, -1.0), 1.0)

    def step_s(self, rows: int) -> float | None:
        """Seconds of an iteration over that many rows; None until one was seen."""
        return self._cost.at(rows)

    def wait_s(self, iterations: float, rows: int) -> float | None:
        """Seconds until that many iterations are over, corrected by how wrong such forecasts have been."""
        step_s = self.step_s(rows)
        return None if step_s is None else iterations * step_s * math.exp(self._bias)

    def iterations(self, sequence: Sequence) -> float:
        """Iterations that a sequence still needs, at least one."""
        at_most = sequence.iterations_at_most()
        tokens = min(self._tokens.get(sequence.ask.reading, math.inf), sequence.ask.max_tokens)
        if sequence.is_read:
            return max(1.0, min(at_most, tokens - sequence.emitted))
        length = sequence.ask.recipe.canvas_length
        further_blocks = max(0.0, math.ceil((tokens - sequence.emitted) / length) - 1)
        usual = min(self._steps or math.inf, sequence.ask.recipe.steps)
        return max(1.0, min(at_most, self._steps_to_go(sequence) + further_blocks * usual))

    def _steps_to_go(self, sequence: Sequence) -> float:
        """Steps of the present canvas: those that canvases usually need, or, once its entropy falls, as many as it
        takes to reach the threshold at the rate seen."""
        usual = max(1.0, (self._steps or math.inf) - sequence.steps_done)
        if sequence.entropy_rate is not None and 0.0 < sequence.entropy_rate < 1.0:
            excess = max(sequence.mean_entropy, 1e-9) / max(sequence.ask.recipe.confidence_threshold, 1e-9)
            falling = 1.0 + max(0.0, math.log(excess) / -math.log(sequence.entropy_rate))
            usual = min(usual, falling) if self._steps is None else (usual + falling) / 2
        return min(usual, sequence.steps_to_go)


class _Line:
    """Least squares of seconds over rows, older observations fading."""

    def __init__(self) -> None:
        self._n = self._x = self._y = self._xx = self._xy = 0.0

    def add(self, x: float, y: float) -> None:
        self._n, self._x, self._y = _FORGETS * self._n + 1, _FORGETS * self._x + x, _FORGETS * self._y + y
        self._xx, self._xy = _FORGETS * self._xx + x * x, _FORGETS * self._xy + x * y

    def at(self, x: float) -> float | None:
        if not self._n:
            return None
        mean_x, mean_y = self._x / self._n, self._y / self._n
        spread = self._xx / self._n - mean_x * mean_x
        slope = (self._xy / self._n - mean_x * mean_y) / spread if spread > 1e-9 else 0.0
        # Rows never make a step cheaper, nor is one free: noise may say so.
        return max(mean_y + max(slope, 0.0) * (x - mean_x), mean_y / 8)


def _running_mean(known: float | None, newest: float) -> float:
    return newest if known is None else known + _NEWEST * (newest - known)
