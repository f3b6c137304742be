"""The demo prints each case with its result, failures, the gateway's metrics and an example request."""

import io
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from twolane.demo import output
from twolane.demo.case_types import Case, Expectation, Group, equals
from twolane.demo.counters import Counters, TargetCount
from twolane.demo.expectations import CaseResult, Reply

CASE = Case(title="an edit [of a text]", prompt="p", expect=Expectation(answer=equals("x")))
HEADERS = {
    "x-twolane-task": "edit",
    "x-twolane-route": "edits",
    "x-twolane-target": "quality",
    "x-twolane-attempts": "fast=low_confidence,quality=ok",
}


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=output.WIDTH_WITHOUT_TERMINAL, highlight=False)


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def result(*failures: str, status: int = 200, answer: str = "x", sent: int = 1) -> CaseResult:
    reply = Reply(status=status, text=answer, elapsed_ms=41.7, headers=HEADERS)
    return CaseResult(case=CASE, reply=reply, sent=sent, failures=failures)


def group(console: Console, *results: CaseResult) -> str:
    output.show_group(console, Group(title="T", description="It works.", cases=(CASE,)), results)
    return text(console)


def test_a_line_shows_the_request_its_route_and_its_attempts(console: Console) -> None:
    shown = group(console, result())
    for part in (
        "T. It works.",
        "✓",
        "an edit [of a text]",
        "edit",
        "edits",
        "fast low_confidence",
        "quality ok",
        "42",
    ):
        assert part in shown


def test_a_narrow_terminal_shows_the_same_facts(console: Console) -> None:
    console.width = 80
    shown = " ".join(group(console, result(answer="the answer")).split())
    for part in ("✓", "an edit [of a text]", "→ the answer", "edit", "edits", "low_confidence", "quality", "ok", "42"):
        assert part in shown


def test_a_failed_case_shows_its_failures(console: Console) -> None:
    shown = group(console, result("target is quality, not fast"))
    assert "✗" in shown
    assert "✗ an edit [of a text]: target is quality, not fast" in shown


def test_a_case_with_several_requests_shows_their_number(console: Console) -> None:
    assert "×12" in group(console, result(sent=12))


def test_long_responses_are_shortened_and_errors_printed_with_their_status(console: Console) -> None:
    shown = group(console, result(answer="word " * 99), result(status=404, answer="model_not_found"))
    assert "…" in shown
    assert "404 model_not_found" in shown


def test_markup_in_a_response_is_printed_as_text(console: Console) -> None:
    assert "[red]alarm[/red]" in group(console, result(answer="[red]alarm[/red]"))


def test_metrics_show_latency_per_target_and_fallback_reasons(console: Console) -> None:
    fast = TargetCount(target="fast", answers=12, p50_ms=60.4, p95_ms=None)
    fallbacks = {("fast", "quality", "deadline"): 3}
    output.show_counters(console, Counters(targets=(fast,), fallbacks=fallbacks, lanes={("edits", "fast"): "probing"}))
    assert all(part in text(console) for part in ("fast", "12", "60", "deadline", "quality", "3", "edits/fast probing"))


def test_the_result_counts_failed_cases(console: Console) -> None:
    output.show_result(console, [result(), result("no")])
    assert "1 of 2 cases" in text(console)
    output.show_result(console, [result(sent=3), result()])
    assert "All 2 cases passed (4 requests)" in text(console)


def test_the_example_request_is_a_shell_command(console: Console) -> None:
    output.show_example(console, gateway_url="http://127.0.0.1:8080")
    shown = text(console)
    assert "curl -si http://127.0.0.1:8080/v1/chat/completions" in shown
    assert '"metadata": {"task": "edit"}' in shown


def test_the_picture_shows_tables_and_result_and_loads_nothing(tmp_path: Path) -> None:
    file = tmp_path / "demo.svg"
    group = Group(title="T", description="It works.", cases=(CASE,))
    output.save_picture(file, [(group, [result()])], [result()])
    drawn = ElementTree.fromstring(file.read_text())
    shown = "".join(drawn.itertext()).replace("\xa0", " ")
    assert "twolane demo --once" in shown
    assert "low_confidence" in shown
    assert "All 1 cases passed" in shown
    assert "url(http" not in file.read_text()
    assert "@font-face" not in file.read_text()
