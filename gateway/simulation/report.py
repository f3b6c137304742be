"""What a run, or two runs of one trace, come to: counts, p95s, changes, dollars. Frozen, and plain JSON on demand.

Knows what ended how, not why; rounds, so that expected results can be compared letter by letter.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil

from gateway.enums import LaneState, Outcome, Reason, Task
from gateway.simulation.run import Ended, Run

Lane = tuple[str, str | None]  # route, and target if somebody answered


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneFigures:
    """The requests that one target answered in one route; `p95_ms` as their clients saw it, fallbacks included."""

    route: str
    target: str | None
    requests: int
    share: float
    p50_ms: float
    p95_ms: float
    dollars: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Fallbacks:
    """So many requests went on from one target to another, and why."""

    route: str
    left: str
    taken: str
    reason: Reason
    requests: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetFigures:
    """One target, whoever asked: `calls` are attempts made, by so many `requests`; `p95_ms` of the calls themselves."""

    target: str
    requests: int
    calls: int
    p95_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A lane's state from `at_s` on, seconds since the trace's beginning."""

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
class Moved:
    """Requests of one task that another lane answers under the new policy. A target of None: nobody did, or does."""

    task: Task
    old_route: str
    old_target: str | None
    new_route: str
    new_target: str | None
    requests: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Two policies on one trace, with the same luck."""

    old: Report
    new: Report
    moved: tuple[Moved, ...]


def report(run: Run) -> Report:
    """The figures of a run."""
    ended = run.ended
    return Report(
        policy=run.policy,
        requests=len(ended),
        errors=sum(each.outcome is not Outcome.OK for each in ended),
        seconds=round(run.took_s, 1),
        p95_ms=quantile(sorted(each.total_ms for each in ended), 0.95),
        hedges=sum(each.hedges for each in ended),
        dollars=_dollars(ended),
        lanes=tuple(_lanes(ended)),
        targets=tuple(_targets(ended)),
        fallbacks=tuple(_fallbacks(ended)),
        changes=tuple(
            Change(at_s=round(each.at_s, 1), route=each.route, target=each.target, state=each.state)
            for each in run.changes
        ),
    )


def compare(old: Run, new: Run) -> Difference:
    """What changes for the requests of a trace; both runs are of the same one."""
    pairs = zip(old.ended, new.ended, strict=True)
    counts = Counter((left.task, _lane(left), _lane(right)) for left, right in pairs if _lane(left) != _lane(right))
    moved = (
        Moved(
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
    """The least of the values that `share` of them do not exceed; of none, 0."""
    return round(ordered[max(0, ceil(share * len(ordered) - 1e-9) - 1)], 1) if ordered else 0.0


def _lane(ended: Ended) -> Lane:
    return ended.route, ended.target


def _lanes(ended: Sequence[Ended]) -> Iterable[LaneFigures]:
    by_lane: defaultdict[Lane, list[Ended]] = defaultdict(list)
    for each in ended:
        by_lane[_lane(each)].append(each)
    for (route, target), own in sorted(by_lane.items(), key=lambda item: (item[0][0], item[0][1] or "")):
        times = sorted(each.total_ms for each in own)
        yield LaneFigures(
            route=route,
            target=target,
            requests=len(own),
            share=round(len(own) / len(ended), 4),
            p50_ms=quantile(times, 0.5),
            p95_ms=quantile(times, 0.95),
            dollars=_dollars(own),
        )


def _targets(ended: Iterable[Ended]) -> Iterable[TargetFigures]:
    times: defaultdict[str, list[float]] = defaultdict(list)
    requests: Counter[str] = Counter()
    for each in ended:
        requests.update({target for target, _ in each.calls})
        for target, took_ms in each.calls:
            times[target].append(took_ms)
    for target, own in sorted(times.items()):
        p95_ms = quantile(sorted(own), 0.95)
        yield TargetFigures(target=target, requests=requests[target], calls=len(own), p95_ms=p95_ms)


def _fallbacks(ended: Iterable[Ended]) -> Iterable[Fallbacks]:
    counts = Counter((each.route, *change) for each in ended for change in each.changes)
    for (route, left, taken, reason), count in sorted(counts.items()):
        yield Fallbacks(route=route, left=left, taken=taken, reason=reason, requests=count)


def _dollars(ended: Iterable[Ended]) -> float:
    return round(sum(each.cost for each in ended), 6)
