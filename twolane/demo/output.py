"""Terminal output of the demo: a table per group of cases, then the gateway's own metrics."""

import contextlib
import io
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from twolane.demo.case_types import Case, Group
from twolane.demo.counters import Counters, TargetCount
from twolane.demo.expectations import CaseResult

WIDTH_WITHOUT_TERMINAL: Final = 160
WIDTH_OF_PICTURE: Final = 110
WIDE: Final = 132  # columns, from which on every field has its own column
ROOMY: Final = 100  # columns, from which on an attempt fits on one line
RESPONSE_CHARS: Final = 76
TARGET_STYLES: Final = {"fast": "bold green", "careful": "bold cyan", "quality": "bold yellow"}
WEB_FONT: Final = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)  # a picture must not load anything


def open_console() -> Console:
    """Return a console as wide as the terminal; into a file or a pipe, wide enough for the tables."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDTH_WITHOUT_TERMINAL)


def show_addresses(console: Console, *, gateway_url: str, admin_url: str) -> None:
    """Print the addresses of the gateway."""
    console.print()
    console.print(f"Gateway: [bold]{gateway_url}/v1[/]   Metrics and admin: {admin_url}")
    console.print(f"Console: [bold]{admin_url}/console[/]", soft_wrap=True)


@contextlib.contextmanager
def progress(console: Console, title: str) -> Iterator[Callable[[str], None]]:
    """Show the current case while a group runs, in a terminal only."""
    with console.status(title) as status:
        yield lambda case: status.update(f"{title}: {escape(case)}")


def show_group(console: Console, group: Group, results: Sequence[CaseResult]) -> None:
    """Print a group: its title, its description, a line per case, and below the table every failure."""
    console.print()
    console.print(f"[bold]{group.title}.[/] {group.description}")
    wide = console.width >= WIDE
    roomy = console.width >= ROOMY
    table = _wide_table() if wide else _narrow_table(roomy=roomy)
    for result in results:
        table.add_row(*(_wide_cells(result) if wide else _narrow_cells(result, roomy=roomy)))
    console.print(table)
    for result in results:
        for failure in result.failures:
            console.print(f"  [red]✗ {escape(result.case.title)}:[/] {escape(failure)}")


def show_skipped(console: Console, case: Case, reason: str) -> None:
    """Print which case was skipped, and why."""
    console.print(f"  [yellow]- {escape(case.title)}:[/] skipped, {escape(reason)}")


def show_counters(console: Console, counters: Counters) -> None:
    """Print the gateway's metrics: latency per target, fallbacks by reason, and lane states."""
    console.print()
    console.print("[bold]Gateway metrics[/] (from /metrics)")
    latency = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="dim")
    for name in ("target", "responses", "p50 ms", "p95 ms"):
        latency.add_column(name, justify="left" if name == "target" else "right")
    for count in counters.targets:
        latency.add_row(*_latency_cells(count))
    console.print(latency)
    fallbacks = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="dim")
    for name in ("fallback reason", "from", "to", "count"):
        fallbacks.add_column(name, justify="right" if name == "count" else "left")
    for (source, target, reason), times in sorted(counters.fallbacks.items(), key=lambda item: -item[1]):
        fallbacks.add_row(reason, _target(source), _target(target), str(times))
    console.print(fallbacks)
    if counters.lanes:
        lanes = (f"{route}/{target} {state}" for (route, target), state in counters.lanes.items())
        console.print(f"Lanes with an SLO guard: {', '.join(lanes)}.")


def show_failure(console: Console, failure: str) -> None:
    """Print a failure that concerns no single case."""
    console.print(f"[red]✗[/] {escape(failure)}")


def show_result(console: Console, results: Sequence[CaseResult]) -> None:
    """Print how many cases passed."""
    failed = sum(not result.passed for result in results)
    requests = sum(result.sent for result in results)
    if failed:
        console.print(f"[bold red]✗ {failed} of {len(results)} cases failed[/] ({requests} requests).")
    else:
        console.print(f"[bold green]✓ All {len(results)} cases passed[/] ({requests} requests).")


def show_example(console: Console, *, gateway_url: str) -> None:
    """Print a request to try while the demo keeps serving."""
    console.print()
    console.print("Serving until ctrl-C. Try a request:")
    console.print(
        f"""  curl -si {gateway_url}/v1/chat/completions -H 'content-type: application/json' -d '{{
    "model": "auto", "seed": 1, "metadata": {{"task": "edit"}},
    "messages": [{{"role": "user", "content": "Clean up this commit subject: Fixed brokn token in api"}}]}}'""",
        markup=False,
        soft_wrap=True,
    )


def save_picture(
    path: Path, groups: Sequence[tuple[Group, Sequence[CaseResult]]], results: Sequence[CaseResult]
) -> None:
    """Save the tables of some groups, and the result of all cases, as an SVG picture of a terminal."""
    console = Console(record=True, width=WIDTH_OF_PICTURE, file=io.StringIO(), force_terminal=True, highlight=False)
    console.print("[bold]$ twolane demo --once[/]")
    for group, shown in groups:
        show_group(console, group, shown)
    console.print("[dim]...[/]")
    show_result(console, results)
    svg = console.export_svg(title="twolane demo", unique_id="twolane-demo")
    path.write_text(WEB_FONT.sub("", svg), encoding="utf-8")


def _wide_table() -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, expand=True, header_style="dim")
    table.add_column("", width=1)
    table.add_column("request", ratio=1)
    for name, width in (("task", 10), ("route", 11), ("target", 7), ("attempts", 22)):
        table.add_column(name, width=width)
    table.add_column("ms", width=5, justify="right")
    table.add_column("response", ratio=1)
    return table


def _wide_cells(result: CaseResult) -> tuple[str, ...]:
    reply = result.reply
    return (
        _mark(result),
        _request(result),
        reply.header("task"),
        reply.header("route"),
        _target(reply.header("target")),
        _attempts(reply.header("attempts")),
        f"{reply.elapsed_ms:.0f}",
        _response(result),
    )


def _narrow_table(*, roomy: bool) -> Table:
    """The same in fewer columns: the response below the request, the route below the task, no target."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, expand=True, header_style="dim")
    table.add_column("", width=1)
    table.add_column("request → response", ratio=1)
    table.add_column("task, route", width=11)
    table.add_column("attempts", width=22 if roomy else 16)
    table.add_column("ms", width=5, justify="right")
    return table


def _narrow_cells(result: CaseResult, *, roomy: bool) -> tuple[str, ...]:
    reply = result.reply
    return (
        _mark(result),
        f"{_request(result)}\n→ {_response(result)}",
        f"{reply.header('task')}\n[dim]{reply.header('route')}[/]",
        _attempts(reply.header("attempts"), between=" " if roomy else "\n  "),
        f"{reply.elapsed_ms:.0f}",
    )


def _mark(result: CaseResult) -> str:
    return "[green]✓[/]" if result.passed else "[red]✗[/]"


def _request(result: CaseResult) -> str:
    times = f" [dim]×{result.sent}[/]" if result.sent > 1 else ""
    return f"{escape(result.case.title)}{times}\n[dim]{escape(result.case.prompt)}[/]"


def _target(name: str) -> str:
    style = TARGET_STYLES.get(name)
    return f"[{style}]{name}[/]" if style else name


def _attempts(header: str, between: str = " ") -> str:
    """One attempt per line, the reasons of failed ones in red."""
    lines = []
    for attempt in filter(None, header.split(",")):
        target, _, outcome = attempt.partition("=")
        lines.append(
            f"{_target(target)}{between}[green]ok[/]" if outcome == "ok" else f"{target}{between}[red]{outcome}[/]"
        )
    return "\n".join(lines)


def _response(result: CaseResult) -> str:
    reply = result.reply
    if reply.status != 200:
        return f"[magenta]{reply.status} {escape(reply.text)}[/]" if reply.status else "[red]none[/]"
    text = " ".join(reply.text.split())
    shown = text if len(text) <= RESPONSE_CHARS else text[: RESPONSE_CHARS - 1] + "…"
    schema = reply.header("schema")
    return escape(shown) + (f" [dim]schema {schema}[/]" if schema else "")


def _latency_cells(count: TargetCount) -> tuple[str, str, str, str]:
    p50, p95 = ("-" if value is None else f"{value:.0f}" for value in (count.p50_ms, count.p95_ms))
    return _target(count.target), str(count.answers), p50, p95
