"""Shows a tour in the terminal: a table per chapter as it is played, then what the gateway itself counted.

Knows `rich`, verdicts and counters; decides nothing.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from twolane.demo.case_types import Chapter, Row
from twolane.demo.counters import Counters, TargetCount
from twolane.demo.expectations import Verdict

WIDTH_WITHOUT_TERMINAL: Final = 160
WIDE: Final = 132  # columns, from which on every fact has a column of its own
ANSWER_CHARS: Final = 76
TARGET_STYLES: Final = {"fast": "bold green", "careful": "bold cyan", "quality": "bold yellow"}


def open_page() -> Console:
    """Return a console as wide as the terminal; into a file or a pipe, wide enough for the tables."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDTH_WITHOUT_TERMINAL)


def show_opening(page: Console, *, gateway_url: str, admin_url: str) -> None:
    """Say what listens where."""
    page.print()
    page.print(f"[bold]Twolane[/] serves at [bold]{gateway_url}/v1[/]; metrics and admin at {admin_url}.")


@contextlib.contextmanager
def waiting(page: Console, title: str) -> Iterator[Callable[[str], None]]:
    """Say what is going on while it goes on; only a terminal shows it."""
    with page.status(title) as status:
        yield lambda asked: status.update(f"{title}: {escape(asked)}")


def show_chapter(page: Console, chapter: Chapter, verdicts: Sequence[Verdict]) -> None:
    """Print one chapter: its title, its sentence, and a line per row, with complaints below the rows they speak of."""
    page.print()
    page.print(f"[bold]{chapter.title}.[/] {chapter.says}")
    wide = page.width >= WIDE
    table = _wide_table() if wide else _narrow_table()
    for verdict in verdicts:
        table.add_row(*(_wide_cells(verdict) if wide else _narrow_cells(verdict)))
    page.print(table)
    for verdict in verdicts:
        for complaint in verdict.complaints:
            page.print(f"  [red]✗ {escape(verdict.row.asked)}:[/] {escape(complaint)}")


def show_skipped(page: Console, row: Row, reason: str) -> None:
    """Print which request was skipped, and why."""
    page.print(f"  [yellow]- {escape(row.asked)}:[/] skipped, {escape(reason)}")


def show_counters(page: Console, counters: Counters) -> None:
    """Print what the gateway counted during the tour: speed per target, and why requests changed lane."""
    page.print()
    page.print("[bold]What the gateway counted[/] (from its /metrics)")
    speed = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="dim")
    for name in ("target", "answers", "p50 ms", "p95 ms"):
        speed.add_column(name, justify="left" if name == "target" else "right")
    for count in counters.targets:
        speed.add_row(*_speed_cells(count))
    page.print(speed)
    reasons = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="dim")
    for name in ("fallback", "from", "to", "times"):
        reasons.add_column(name, justify="right" if name == "times" else "left")
    for (source, target, reason), times in sorted(counters.fallbacks.items(), key=lambda item: -item[1]):
        reasons.add_row(reason, _target(source), _target(target), str(times))
    page.print(reasons)
    if counters.lanes:
        lanes = (f"{route}/{target} {state}" for (route, target), state in counters.lanes.items())
        page.print(f"Lanes under guard: {', '.join(lanes)}.")


def show_complaint(page: Console, complaint: str) -> None:
    """Print what is wrong with the tour as a whole."""
    page.print(f"[red]✗[/] {escape(complaint)}")


def show_result(page: Console, verdicts: Sequence[Verdict]) -> None:
    """Print the tour's result in a line."""
    failed = sum(not verdict.passed for verdict in verdicts)
    requests = sum(verdict.sent for verdict in verdicts)
    if failed:
        page.print(f"[bold red]✗ {failed} of {len(verdicts)} rows did not come out as stated[/] ({requests} requests).")
    else:
        page.print(f"[bold green]✓ All {len(verdicts)} rows came out as stated[/] ({requests} requests).")


def show_invitation(page: Console, *, gateway_url: str) -> None:
    """Say how to go on while the demo serves."""
    page.print()
    page.print("Still serving; ctrl-C ends it. Ask something:")
    page.print(
        f"""  curl -si {gateway_url}/v1/chat/completions -H 'content-type: application/json' -d '{{
    "model": "auto", "seed": 1, "metadata": {{"task": "edit"}},
    "messages": [{{"role": "user", "content": "Clean up this commit subject: Fixed brokn token in api"}}]}}'""",
        markup=False,
        soft_wrap=True,
    )


def _wide_table() -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, expand=True, header_style="dim")
    table.add_column("", width=1)
    table.add_column("asked", ratio=1)
    for name, width in (("task", 10), ("route", 11), ("by", 7), ("attempts", 22)):
        table.add_column(name, width=width)
    table.add_column("ms", width=5, justify="right")
    table.add_column("answer", ratio=1)
    return table


def _wide_cells(verdict: Verdict) -> tuple[str, ...]:
    reply = verdict.reply
    return (
        _mark(verdict),
        _asked(verdict),
        reply.header("task"),
        reply.header("route"),
        _target(reply.header("target")),
        _attempts(reply.header("attempts")),
        f"{reply.elapsed_ms:.0f}",
        _answer(verdict),
    )


def _narrow_table() -> Table:
    """The same in fewer columns: answers below questions, routes below tasks; who answered is the one that is ok."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, expand=True, header_style="dim")
    table.add_column("", width=1)
    table.add_column("asked → answer", ratio=1)
    table.add_column("task, route", width=11)
    table.add_column("attempts", width=16)
    table.add_column("ms", width=5, justify="right")
    return table


def _narrow_cells(verdict: Verdict) -> tuple[str, ...]:
    reply = verdict.reply
    return (
        _mark(verdict),
        f"{_asked(verdict)}\n→ {_answer(verdict)}",
        f"{reply.header('task')}\n[dim]{reply.header('route')}[/]",
        _attempts(reply.header("attempts"), between="\n  "),
        f"{reply.elapsed_ms:.0f}",
    )


def _mark(verdict: Verdict) -> str:
    return "[green]✓[/]" if verdict.passed else "[red]✗[/]"


def _asked(verdict: Verdict) -> str:
    times = f" [dim]×{verdict.sent}[/]" if verdict.sent > 1 else ""
    return f"{escape(verdict.row.asked)}{times}\n[dim]{escape(verdict.row.prompt)}[/]"


def _target(name: str) -> str:
    style = TARGET_STYLES.get(name)
    return f"[{style}]{name}[/]" if style else name


def _attempts(header: str, between: str = " ") -> str:
    """One attempt after the other, the reasons of those that failed in red."""
    lines = []
    for attempt in filter(None, header.split(",")):
        target, _, outcome = attempt.partition("=")
        lines.append(
            f"{_target(target)}{between}[green]ok[/]" if outcome == "ok" else f"{target}{between}[red]{outcome}[/]"
        )
    return "\n".join(lines)


def _answer(verdict: Verdict) -> str:
    reply = verdict.reply
    if reply.status != 200:
        return f"[magenta]{reply.status} {escape(reply.text)}[/]" if reply.status else "[red]none[/]"
    text = " ".join(reply.text.split())
    shown = text if len(text) <= ANSWER_CHARS else text[: ANSWER_CHARS - 1] + "…"
    schema = reply.header("schema")
    return escape(shown) + (f" [dim]schema {schema}[/]" if schema else "")


def _speed_cells(count: TargetCount) -> tuple[str, str, str, str]:
    p50, p95 = ("-" if value is None else f"{value:.0f}" for value in (count.p50_ms, count.p95_ms))
    return _target(count.target), str(count.answers), p50, p95
