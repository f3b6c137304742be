"""What an iteration costs: the work that its passes do, and the seconds that such work takes.

A canvas step passes a whole canvas through the model, a verification as many positions again, a decode only one, and
each kind of pass has a price of its own. Seconds are fitted as a + b * passes + c * positions by least squares, with
exponentially decaying weights.
"""

from dataclasses import dataclass

from diffusion_worker.types.step_batch import Batch

_DECAY = 0.98  # decay of older observations, per observation
_LEAST_SPREAD = 1e-9  # relative variance below which values count as constant


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLoad:
    """The work of an iteration: passes through the model, and positions in all of them."""

    passes: float
    positions: float


def load_of(batch: Batch, *, is_mixed: bool = False) -> StepLoad:
    """The work of a batch. Rows of one kind share a pass; if `is_mixed`, prefills are part of that of canvases."""
    drafts = any(item.draft is not None for item in batch.verifications)
    canvases = bool(batch.denoises or drafts)
    kinds = (batch.prefills and not (is_mixed and canvases), canvases, batch.verifications, batch.decodes)
    return StepLoad(passes=sum(map(bool, kinds)), positions=positions_of(batch))


def positions_of(batch: Batch) -> int:
    """Positions that a batch passes through the model, with padding; 0 for a batch without passes."""
    drafts = [item.draft for item in batch.verifications if item.draft is not None]
    canvases = [item.denoising.canvas_length for item in (*batch.denoises, *drafts)]
    causal = (batch.prefills, batch.decodes)
    positions = sum(len(item.ids) for items in causal for item in items)
    return len(canvases) * max(canvases, default=0) + sum(i.count for i in batch.verifications) + positions


class StepFit:
    """The fitted seconds of an iteration. More work is never cheaper, and no iteration is free."""

    def __init__(self) -> None:
        self._weight = 0.0
        self._means = [0.0, 0.0, 0.0]  # of passes, positions and seconds
        self._products = [[0.0] * 3 for _ in range(3)]  # means of their products

    def add(self, load: StepLoad, seconds: float) -> None:
        """Take in one iteration."""
        values = (load.passes, load.positions, seconds)
        self._weight = _DECAY * self._weight + 1.0
        share = 1.0 / self._weight
        for row, value in enumerate(values):
            self._means[row] += share * (value - self._means[row])
            for column, other in enumerate(values):
                self._products[row][column] += share * (value * other - self._products[row][column])

    def at(self, load: StepLoad) -> float | None:
        """Seconds of an iteration with this work; None before the first observation."""
        if not self._weight:
            return None
        per_pass, per_position = self._slopes()
        passes, positions, seconds = self._means
        predicted = seconds + per_pass * (load.passes - passes) + per_position * (load.positions - positions)
        return max(predicted, seconds / 8)

    def _slopes(self) -> tuple[float, float]:
        """Seconds per pass and per position, not negative: where one would be, it is 0 and the other explains all."""
        first, both, second = self._covariance(0, 0), self._covariance(0, 1), self._covariance(1, 1)
        with_first, with_second = self._covariance(0, 2), self._covariance(1, 2)
        determinant = first * second - both * both
        if self._varies(0) and self._varies(1) and determinant > _LEAST_SPREAD * first * second:
            slopes = (
                (second * with_first - both * with_second) / determinant,
                (first * with_second - both * with_first) / determinant,
            )
            if min(slopes) >= 0.0:
                return slopes
        of_positions = max(0.0, with_second / second) if self._varies(1) else 0.0
        of_passes = max(0.0, with_first / first) if self._varies(0) else 0.0
        explains_more = of_positions * with_second >= of_passes * with_first
        return (0.0, of_positions) if explains_more else (of_passes, 0.0)

    def _varies(self, row: int) -> bool:
        return self._covariance(row, row) > _LEAST_SPREAD * self._products[row][row]

    def _covariance(self, row: int, column: int) -> float:
        return self._products[row][column] - self._means[row] * self._means[column]
