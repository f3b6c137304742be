"""Figures of a simulation run, or of two runs of one trace: counts, p95s, lane changes, cost. Plain JSON on demand.

Numbers are rounded, so that expected results can be compared byte by byte.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil

from gateway.enums import LaneState, Outcome, Reason, Task
from gateway.simulation.run import CompletedRequest, Run

Lane = tuple[str, str | None]  # route, and target if one responded


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneFigures:
    """The requests that one target served in one route; `p95_ms` as seen by clients, fallbacks included."""

    route: str
    target: str | None
    requests: int
    share: float
    p50_ms: float
    p95_ms: float
    dollars: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Fallbacks:
    """How many requests fell back from one target to another, and why."""

    route: str
    left: str
    taken: str
    reason: Reason
    requests: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetFigures:
    """One target over all routes: `calls` attempts for `requests` requests; `p95_ms` of the calls."""

    target: str
    requests: int
    calls: int
    p95_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A lane's state from `at_s` on, in seconds since the start of the trace."""

    at_s: float
    route: str
    target: str
    state: LaneState


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One run."""

    policy: str
    requests: int
    errors: int
    seconds: float
    p95_ms: float
    hedges: int
    dollars: float
    lanes: tuple[LaneFigures, ...]
    targets: tuple[TargetFigures, ...]
    fallbacks: tuple[Fallbacks, ...]
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MovedRequests:
    """Requests of one task that another lane serves under the new policy. A target of None: no target responded."""

    task: Task
    old_route: str
    old_target: str | None
    new_route: str
    new_target: str | None
    requests: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Two policies on one trace, with the same random numbers."""

    old: Report
    new: Report
    moved: tuple[MovedRequests, ...]


def report(run: Run) -> Report:
    """The figures of a run."""
    completed = run.completed
    return Report(
        policy=run.policy,
        requests=len(completed),
        errors=sum(each.outcome is not Outcome.OK for each in completed),
        seconds=round(run.took_s, 1),
        p95_ms=quantile(sorted(each.total_ms for each in completed), 0.95),
        hedges=sum(each.hedges for each in completed),
        dollars=_dollars(completed),
        lanes=tuple(_lanes(completed)),
        targets=tuple(_targets(completed)),
        fallbacks=tuple(_fallbacks(completed)),
        changes=tuple(
            Change(at_s=round(each.at_s, 1), route=each.route, target=each.target, state=each.state)
            for each in run.changes
        ),
    )


def compare(old: Run, new: Run) -> Difference:
    """What changes for the requests of a trace; both runs must be of the same one."""
    pairs = zip(old.completed, new.completed, strict=True)
    counts = Counter((left.task, _lane(left), _lane(right)) for left, right in pairs if _lane(left) != _lane(right))
    moved = (
        MovedRequests(
            task=task,
            old_route=left[0],
            old_target=left[1],
            new_route=right[0],
            new_target=right[1],
            requests=count,
        )
        for (task, left, right), count in counts.most_common()
    )
    return Difference(old=report(old), new=report(new), moved=tuple(moved))


def quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that `share` of the values do not exceed; 0 without values."""
    return round(ordered[max(0, ceil(share * len(ordered) - 1e-9) - 1)], 1) if ordered else 0.0


def _lane(completed: CompletedRequest) -> Lane:
    return completed.route, completed.target


def _lanes(completed: Sequence[CompletedRequest]) -> Iterable[LaneFigures]:
    by_lane: defaultdict[Lane, list[CompletedRequest]] = defaultdict(list)
    for each in completed:
        by_lane[_lane(each)].append(each)
    for (route, target), own in sorted(by_lane.items(), key=lambda item: (item[0][0], item[0][1] or "")):
        times = sorted(each.total_ms for each in own)
        yield LaneFigures(
            route=route,
            target=target,
            requests=len(own),
            share=round(len(own) / len(completed), 4),
            p50_ms=quantile(times, 0.5),
            p95_ms=quantile(times, 0.95),
            dollars=_dollars(own),
        )


def _targets(completed: Iterable[CompletedRequest]) -> Iterable[TargetFigures]:
    times: defaultdict[str, list[float]] = defaultdict(list)
    requests: Counter[str] = Counter()
    for each in completed:
        requests.update({target for target, _ in each.calls})
        for target, took_ms in each.calls:
            times[target].append(took_ms)
    for target, own in sorted(times.items()):
        p95_ms = quantile(sorted(own), 0.95)
        yield TargetFigures(target=target, requests=requests[target], calls=len(own), p95_ms=p95_ms)


def _fallbacks(completed: Iterable[CompletedRequest]) -> Iterable[Fallbacks]:
    counts = Counter((each.route, *change) for each in completed for change in each.changes)
    for (route, left, taken, reason), count in sorted(counts.items()):
        yield Fallbacks(route=route, left=left, taken=taken, reason=reason, requests=count)


def _dollars(completed: Iterable[CompletedRequest]) -> float:
    return round(sum(each.cost for each in completed), 6)
