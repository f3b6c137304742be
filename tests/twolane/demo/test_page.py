"""What a person reads: each row on the page with its verdict, complaints in words, the counters, the way on."""

import io

import pytest
from rich.console import Console

from twolane.demo import page as pages
from twolane.demo.case_types import Chapter, Expectation, Row, exactly
from twolane.demo.counters import Counters, TargetCount
from twolane.demo.expectations import Reply, Verdict

ROW = Row(asked="an edit [of a text]", prompt="p", expect=Expectation(answer=exactly("x")))
HEADERS = {
    "x-twolane-task": "edit",
    "x-twolane-route": "edits",
    "x-twolane-target": "quality",
    "x-twolane-attempts": "fast=low_confidence,quality=ok",
}


@pytest.fixture
def page() -> Console:
    return Console(file=io.StringIO(), width=pages.WIDTH_WITHOUT_TERMINAL, highlight=False)


def text(page: Console) -> str:
    assert isinstance(page.file, io.StringIO)
    return page.file.getvalue()


def verdict(*complaints: str, status: int = 200, answer: str = "x", sent: int = 1) -> Verdict:
    reply = Reply(status=status, text=answer, elapsed_ms=41.7, headers=HEADERS)
    return Verdict(row=ROW, reply=reply, sent=sent, complaints=complaints)


def chapter(page: Console, *verdicts: Verdict) -> str:
    pages.show_chapter(page, Chapter(title="T", says="It says.", rows=(ROW,)), verdicts)
    return text(page)


def test_a_row_tells_what_was_asked_where_it_went_and_how_it_ended(page: Console) -> None:
    shown = chapter(page, verdict())
    for said in ("T. It says.", "✓", "an edit [of a text]", "edit", "edits", "fast low_confidence", "quality ok", "42"):
        assert said in shown


def test_a_narrow_terminal_loses_no_fact(page: Console) -> None:
    page.width = 80
    shown = " ".join(chapter(page, verdict(answer="the answer")).split())
    for said in ("✓", "an edit [of a text]", "→ the answer", "edit", "edits", "low_confidence", "quality", "ok", "42"):
        assert said in shown


def test_a_wrong_row_tells_why(page: Console) -> None:
    shown = chapter(page, verdict("target is quality, not fast"))
    assert "✗" in shown
    assert "✗ an edit [of a text]: target is quality, not fast" in shown


def test_repeated_rows_tell_how_often(page: Console) -> None:
    assert "×12" in chapter(page, verdict(sent=12))


def test_long_answers_are_shortened_and_errors_told_with_their_status(page: Console) -> None:
    shown = chapter(page, verdict(answer="word " * 99), verdict(status=404, answer="model_not_found"))
    assert "…" in shown
    assert "404 model_not_found" in shown


def test_answers_cannot_paint_the_page(page: Console) -> None:
    assert "[red]alarm[/red]" in chapter(page, verdict(answer="[red]alarm[/red]"))


def test_counters_tell_speed_per_target_and_reasons(page: Console) -> None:
    fast = TargetCount(target="fast", answers=12, p50_ms=60.4, p95_ms=None)
    fallbacks = {("fast", "quality", "deadline"): 3}
    pages.show_counters(page, Counters(targets=(fast,), fallbacks=fallbacks, lanes={("edits", "fast"): "probing"}))
    assert all(said in text(page) for said in ("fast", "12", "60", "deadline", "quality", "3", "edits/fast probing"))


def test_the_result_counts_what_went_wrong(page: Console) -> None:
    pages.show_result(page, [verdict(), verdict("no")])
    assert "1 of 2 rows" in text(page)
    pages.show_result(page, [verdict(sent=3), verdict()])
    assert "All 2 rows came out as stated (4 requests)" in text(page)


def test_the_invitation_can_be_pasted_into_a_shell(page: Console) -> None:
    pages.show_invitation(page, gateway_url="http://127.0.0.1:8080")
    shown = text(page)
    assert "curl -si http://127.0.0.1:8080/v1/chat/completions" in shown
    assert '"metadata": {"task": "edit"}' in shown
