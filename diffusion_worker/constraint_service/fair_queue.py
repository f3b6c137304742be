"""A queue of jobs that shares a few processes fairly between API keys: start-time fair queuing (Goyal, Vin and Cheng
1996) over the time used.

Each owner has a tag: the virtual time at which its next job may start. The owner with the earliest tag is served next,
and the virtual time is the tag of the one served last. A job moves its owner's tag on by the time that it used. So an
owner that paused starts level with the others and has saved up nothing, but what it used before a short pause still
counts. Within an owner, small jobs go first, but a large one is passed only for a limited time. Pure: times are
arguments.
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
    """Jobs that wait, and the tags of owners that have open jobs, or are ahead of the virtual time."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[Job]] = {}
        self._running: dict[str, int] = {}
        self._tags: dict[str, float] = {}
        self._virtual_s = 0.0

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def add(self, job: Job) -> None:
        """A job waits, for the first time or again."""
        if job.owner not in self._waiting and job.owner not in self._running:
            self._tags[job.owner] = max(self._tags.get(job.owner, 0.0), self._virtual_s)
        self._waiting.setdefault(job.owner, []).append(job)

    def take(self, *, with_long: bool) -> Job | None:
        """The next job, which runs from now on; None if none waits that may run. Long ones only `with_long`."""
        found: tuple[float, float, Job] | None = None
        for owner, jobs in self._waiting.items():
            for job in jobs:
                if with_long or not job.is_long:
                    key = self._tags[owner], job.rank
                    if found is None or key < found[:2]:
                        found = *key, job
        if found is None:
            return None
        self._virtual_s, job = max(self._virtual_s, found[0]), found[2]
        self._drop(job)
        self._running[job.owner] = self._running.get(job.owner, 0) + 1
        return job

    def remove(self, job: Job) -> None:
        """A waiting job is given up."""
        self._drop(job)
        self._forget()

    def ended(self, job: Job, used_s: float) -> None:
        """A job has run for so long, whether it is done or will wait again."""
        self._tags[job.owner] += used_s
        self._running[job.owner] -= 1
        if not self._running[job.owner]:
            del self._running[job.owner]
        self._forget()

    def _drop(self, job: Job) -> None:
        jobs = self._waiting[job.owner]
        jobs.remove(job)
        if not jobs:
            del self._waiting[job.owner]

    def _forget(self) -> None:
        """Forget tags that the virtual time has reached, and all of them when nothing is left to be shared."""
        open_owners = self._waiting.keys() | self._running.keys()
        if not open_owners:
            self._virtual_s = 0.0
        self._tags = {
            owner: tag
            for owner, tag in self._tags.items()
            if owner in open_owners or (open_owners and tag > self._virtual_s)
        }
