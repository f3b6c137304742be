"""The sequences that wait for a slot, in what order they get one, and who has to make way.

Shortest predicted remaining work first, aged by waiting and by deadline. Pure: `now`, in seconds, is an argument.
"""

import heapq
from collections.abc import Collection, Iterator

from diffusion_worker.engine.cost_model import CostModel
from diffusion_worker.engine.sequence import Sequence
from diffusion_worker.types.observations import PredictedWait
from diffusion_worker.types.requests import DecodingMode

UNKNOWN_STEP_S = 0.05  # until a step has been measured
PREEMPTION_WORK_RATIO = (
    4.0  # how many times as much work a running sequence must have left to be parked for a waiting one
)
MAX_PREEMPTIONS = 2  # how often one sequence may have to make way


class WaitingQueue:
    """Waiting sequences; a parked one among them keeps its age."""

    def __init__(self, cost_model: CostModel) -> None:
        self._cost_model = cost_model
        self._waiting: list[Sequence] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._waiting)

    def add(self, sequence: Sequence) -> None:
        """It waits from now on."""
        self._waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """It waits no longer."""
        self._waiting.remove(sequence)

    def overdue(self, now: float) -> list[Sequence]:
        """Those whose deadline has passed before anything of their answer was there."""
        return [sequence for sequence in self._waiting if sequence.is_due(now)]

    def first(self, now: float) -> Sequence | None:
        """The next to get a slot."""
        return min(self._waiting, key=lambda sequence: self.priority(sequence, now), default=None)

    def priority(self, sequence: Sequence, now: float) -> float:
        """The lower, the sooner: remaining work less the time since submission, or the slack before the deadline if
        that is less. A second of waiting weighs as much as a second of work, so nobody starves."""
        left_s = self._left_s(self._cost_model.iterations(sequence))
        priority = left_s - (now - sequence.submitted)
        if sequence.request.deadline_s is not None:
            priority = min(priority, sequence.submitted + sequence.request.deadline_s - now - left_s)
        return priority

    def victim(self, running: Collection[Sequence], now: float, *, is_full: bool) -> Sequence | None:
        """A running sequence that should make way: one with far more work left than someone who waits, and not more
        urgent. Parking costs the context, so the difference must be worth it, and nobody is parked again and again."""
        if not is_full or (best := self.first(now)) is None:
            return None
        work, priority = self._cost_model.iterations(best), self.priority(best, now)
        candidates = [sequence for sequence in running if self._is_preemptible(sequence, work, priority, now)]
        return max(candidates, key=lambda sequence: self.priority(sequence, now), default=None)

    def predict_wait(
        self, running: Collection[Sequence], rows: int, now: float, request: Sequence | None = None
    ) -> PredictedWait | None:
        """How long one more would wait, `ask` or one as usual; None until a step was measured. All who are more urgent
        go first, and who would make way for it is in nobody's way."""
        work = self._cost_model.iterations(request) if request else self._cost_model.usual_iterations()
        priority = self.priority(request, now) if request else self._left_s(work)
        stay = [sequence for sequence in running if not self._is_preemptible(sequence, work, priority, now)]
        free_after = [self._cost_model.iterations(sequence) for sequence in stay]
        free_after += [0.0] * (rows - len(free_after))
        heapq.heapify(free_after)
        before = [sequence for sequence in self._waiting if self.priority(sequence, now) <= priority]
        for sequence in sorted(before, key=lambda sequence: self.priority(sequence, now)):
            heapq.heapreplace(free_after, free_after[0] + self._cost_model.iterations(sequence))
        return self._cost_model.predict_wait(
            free_after[0], rows, request.request.decoding_mode if request else DecodingMode.DIFFUSION
        )

    def _is_preemptible(self, running: Sequence, work: float, priority: float, now: float) -> bool:
        """Whether it would be parked for a waiting one with that much work, in iterations, and that key."""
        has_far_more = self._cost_model.iterations(running) > PREEMPTION_WORK_RATIO * work
        return has_far_more and running.preempted < MAX_PREEMPTIONS and self.priority(running, now) > priority

    def _left_s(self, iterations: float) -> float:
        step_s = self._cost_model.step_s(1)
        return iterations * (UNKNOWN_STEP_S if step_s is None else step_s)
