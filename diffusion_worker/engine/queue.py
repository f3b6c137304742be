"""The waiting queue: the order in which sequences are scheduled, and which running one is preempted.

Shortest predicted remaining work first, with aging by wait and deadline. Pure: `now`, in seconds, is an argument.
"""

import heapq
from collections.abc import Collection, Iterator

from diffusion_worker.engine.cost_model import CostModel
from diffusion_worker.engine.sequence import Sequence
from diffusion_worker.types.observations import PredictedWait
from diffusion_worker.types.requests import DecodingMode

PREEMPTION_WORK_RATIO = (
    4.0  # how many times the work of the queued sequence a running one must have left to be preempted
)
MAX_PREEMPTIONS = 2  # per sequence


class WaitingQueue:
    """Queued sequences; a preempted one keeps its submission time."""

    def __init__(self, cost_model: CostModel) -> None:
        self._cost_model = cost_model
        self._waiting: list[Sequence] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._waiting)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence."""
        self._waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Remove a sequence."""
        self._waiting.remove(sequence)

    def overdue(self, now: float) -> list[Sequence]:
        """Queued sequences whose deadline has passed."""
        return [sequence for sequence in self._waiting if sequence.is_due(now)]

    def first(self, now: float) -> Sequence | None:
        """The sequence to schedule next; None if the queue is empty."""
        return min(self._waiting, key=lambda sequence: self.priority(sequence, now), default=None)

    def priority(self, sequence: Sequence, now: float) -> float:
        """Scheduling priority in seconds; lower values run first.

        Remaining work less the time since submission, or the slack before the deadline if that is less. A second of
        waiting weighs as much as a second of work, so no sequence starves.
        """
        left_s = self._cost_model.work_s(sequence)
        priority = left_s - (now - sequence.submitted)
        if sequence.request.deadline_s is not None:
            priority = min(priority, sequence.submitted + sequence.request.deadline_s - now - left_s)
        return priority

    def victim(self, running: Collection[Sequence], now: float, *, is_full: bool) -> Sequence | None:
        """The running sequence to preempt for the first queued one, or None.

        It must have far more work left and no better priority. Preemption discards the context, so the difference must
        be worth it, and each sequence is preempted at most MAX_PREEMPTIONS times.
        """
        if not is_full or (best := self.first(now)) is None:
            return None
        work_s, priority = self._cost_model.work_s(best), self.priority(best, now)
        candidates = [sequence for sequence in running if self._is_preemptible(sequence, work_s, priority, now)]
        return max(candidates, key=lambda sequence: self.priority(sequence, now), default=None)

    def predict_wait(
        self, running: Collection[Sequence], rows: int, now: float, newcomer: Sequence | None = None
    ) -> PredictedWait | None:
        """Predicted wait of `newcomer`, or of an average request; None until a step has been measured.

        Simulates the queue: sequences with better priority go first, and running ones that would be preempted for the
        newcomer do not count.
        """
        work_s = self._cost_model.work_s(newcomer) if newcomer else self._cost_model.usual_work_s()
        priority = self.priority(newcomer, now) if newcomer else work_s
        stay = [sequence for sequence in running if not self._is_preemptible(sequence, work_s, priority, now)]
        free_after = [self._cost_model.iterations(sequence) for sequence in stay]
        free_after += [0.0] * (rows - len(free_after))
        heapq.heapify(free_after)
        before = [sequence for sequence in self._waiting if self.priority(sequence, now) <= priority]
        for sequence in sorted(before, key=lambda sequence: self.priority(sequence, now)):
            heapq.heapreplace(free_after, free_after[0] + self._cost_model.iterations(sequence))
        step_s = self._cost_model.usual_step_s((*stay, *before), rows)
        mode = newcomer.request.decoding_mode if newcomer else DecodingMode.DIFFUSION
        return self._cost_model.predict_wait(free_after[0], step_s, mode)

    def _is_preemptible(self, running: Sequence, work_s: float, priority: float, now: float) -> bool:
        """Whether `running` would be preempted for a queued sequence with this work, in seconds, and this priority."""
        has_far_more = self._cost_model.work_s(running) > PREEMPTION_WORK_RATIO * work_s
        return has_far_more and running.preempted < MAX_PREEMPTIONS and self.priority(running, now) > priority
