"""A queue of jobs that shares a few processes fairly between API keys: start-time fair queuing over the time used.

The owner that has used the least time is served next; one that returns after a pause starts level with the others, so
that nobody saves up time. Within an owner, small jobs go first, but a large one is passed only for a limited time.
Pure: times are arguments.
"""

from dataclasses import dataclass, field
from typing import Final

SECONDS_PER_BYTE: Final = 1 / 2048  # how much later than a small job of the same age a large one is served
LATEST_S: Final = 5.0


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """One job. `is_long`: it has exceeded the time of a quick job."""

    owner: str
    size: int  # of its text, which estimates its time
    arrived_s: float
    is_long: bool = field(default=False)

    @property
    def rank(self) -> float:
        """Jobs of an owner are served in this order."""
        return self.arrived_s + min(LATEST_S, self.size * SECONDS_PER_BYTE)


class FairQueue:
    """Jobs that wait, and the time that each owner with open jobs has used."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[Job]] = {}
        self._running: dict[str, int] = {}
        self._used_s: dict[str, float] = {}

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def add(self, job: Job) -> None:
        """A job waits, for the first time or again."""
        if job.owner not in self._used_s:
            self._used_s[job.owner] = min(self._used_s.values(), default=0.0)
        self._waiting.setdefault(job.owner, []).append(job)

    def take(self, *, with_long: bool) -> Job | None:
        """The next job, which runs from now on; None if none waits that may run. Long ones only `with_long`."""
        found: tuple[float, float, Job] | None = None
        for owner, jobs in self._waiting.items():
            for job in jobs:
                if with_long or not job.is_long:
                    key = self._used_s[owner], job.rank
                    if found is None or key < found[:2]:
                        found = *key, job
        if found is None:
            return None
        job = found[2]
        self._drop(job)
        self._running[job.owner] = self._running.get(job.owner, 0) + 1
        return job

    def remove(self, job: Job) -> None:
        """A waiting job is given up."""
        self._drop(job)
        self._forget(job.owner)

    def ended(self, job: Job, used_s: float) -> None:
        """A job has run for so long, whether it is done or will wait again."""
        self._used_s[job.owner] += used_s
        self._running[job.owner] -= 1
        if not self._running[job.owner]:
            del self._running[job.owner]
        self._forget(job.owner)

    def _drop(self, job: Job) -> None:
        jobs = self._waiting[job.owner]
        jobs.remove(job)
        if not jobs:
            del self._waiting[job.owner]

    def _forget(self, owner: str) -> None:
        if owner not in self._waiting and owner not in self._running:
            self._used_s.pop(owner, None)
