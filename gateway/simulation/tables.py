"""Prints simulation reports as tables."""

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from gateway.simulation.report import Change, Difference, LaneFigures, Report


def print_report(found: Report, console: Console) -> None:
    """Lanes, targets, fallbacks, lane changes; empty tables are omitted."""
    console.print(_sum(found), soft_wrap=True)
    columns = ("route", "served by", "requests", "share", "p50 ms", "p95 ms", "cost")
    _table(console, "lanes", columns, map(_row, found.lanes))
    targets = ((each.target, each.requests, each.calls, each.p95_ms) for each in found.targets)
    _table(console, "targets", ("target", "requests", "calls", "p95 ms of calls"), targets)
    fallbacks = ((each.route, each.left, each.taken, each.reason, each.requests) for each in found.fallbacks)
    _table(console, "fallbacks", ("route", "from", "to", "reason", "requests"), fallbacks)
    _table(console, "lane changes", ("at s", "route", "target", "state"), map(_when, found.changes))


def print_difference(found: Difference, console: Console) -> None:
    """The requests that move, and every lane before and after."""
    console.print(f"old: {_sum(found.old)}", soft_wrap=True)
    console.print(f"new: {_sum(found.new)}", soft_wrap=True)
    moved = (
        (each.task, _lane(each.old_route, each.old_target), _lane(each.new_route, each.new_target), each.requests)
        for each in found.moved
    )
    _table(console, "requests that move", ("task", "from", "to", "requests"), moved)
    old = {(each.route, each.target): each for each in found.old.lanes}
    new = {(each.route, each.target): each for each in found.new.lanes}
    lanes = (_both(lane, old.get(lane), new.get(lane)) for lane in dict.fromkeys([*old, *new]))
    _table(console, "lanes, old > new", ("lane", "requests", "p95 ms", "cost"), lanes)
    changes = [("old", *_when(each)) for each in found.old.changes] + [
        ("new", *_when(each)) for each in found.new.changes
    ]
    _table(console, "lane changes", ("policy", "at s", "route", "target", "state"), changes)


def _both(lane: tuple[str, str | None], old: LaneFigures | None, new: LaneFigures | None) -> tuple[str, ...]:
    def pair(left: object, right: object) -> str:
        return f"{left} > {right}"

    return (
        _lane(*lane),
        pair(old.requests if old else 0, new.requests if new else 0),
        pair(old.p95_ms if old else "-", new.p95_ms if new else "-"),
        pair(_cost(old.dollars) if old else "-", _cost(new.dollars) if new else "-"),
    )


def _when(change: Change) -> tuple[object, ...]:
    return f"{change.at_s:.1f}", change.route, change.target, change.state


def _row(lane: LaneFigures) -> tuple[object, ...]:
    who, share = lane.target or "no target", f"{lane.share:.1%}"
    return lane.route or "no route", who, lane.requests, share, lane.p50_ms, lane.p95_ms, _cost(lane.dollars)


def _sum(found: Report) -> str:
    return (
        f"policy {found.policy}: {found.requests} requests in {found.seconds:g} s, {found.errors} failed,"
        f" p95 {found.p95_ms:g} ms, {found.hedges} hedges, cost {_cost(found.dollars)}"
    )


def _lane(route: str, target: str | None) -> str:
    return f"{route or 'no route'}/{target or 'no target'}"


def _cost(dollars: float) -> str:
    return f"${dollars:.4f}" if dollars else "-"


def _table(console: Console, title: str, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*map(str, row))
    if table.row_count:
        console.print(table)
