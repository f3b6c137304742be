"""What is left to try when every candidate failed or was skipped: those that are slow, and those that are full."""

from collections.abc import Sequence

from gateway.enums import Reason
from gateway.types import Candidate, Verdict

Skipped = Sequence[tuple[Candidate, Verdict]]


def last_resorts(skipped: Skipped) -> tuple[Candidate, ...]:
    """The candidates that were skipped only because another one should be faster, in order. Ask them before giving up:
    a late answer is better than none. One that was skipped for another reason as well is not among them."""
    found: dict[tuple[str, str], Candidate] = {}
    for candidate, verdict in skipped:
        if _is_slow(verdict):
            found.setdefault(candidate.lane, candidate)
    others = {candidate.lane for candidate, verdict in skipped if not _is_slow(verdict)}
    return tuple(candidate for lane, candidate in found.items() if lane not in others)


def worth_waiting(skipped: Skipped) -> tuple[Candidate, ...]:
    """The candidates whose slots were all in use when they were skipped last, in order."""
    last = {candidate.lane: (candidate, verdict) for candidate, verdict in skipped}
    return tuple(candidate for candidate, verdict in last.values() if verdict.is_full)


def _is_slow(verdict: Verdict) -> bool:
    return verdict.reason is Reason.P95_BREACH or verdict.is_slow
