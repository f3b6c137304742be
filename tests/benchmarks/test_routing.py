"""The routing benchmark: reading examples, scores, and the exit code of `--check`."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import routing
from benchmarks.routing import (
    Example,
    Prediction,
    by_keywords,
    calibration_error,
    lane_scores,
    macro_f1,
    read_examples,
    report,
)
from gateway.enums import Task
from gateway.types import Classification, Query


def predicted(
    task: Task, said: Task, *, confidence: float = 0.9, also_ok: frozenset[Task] = frozenset(), **given: Any
) -> Prediction:
    query = Query(request_id="", model="auto", body=b"", received_s=0.0)
    example = Example(name="r", task=task, also_ok=also_ok, is_templated=given.get("templated", False), query=query)
    classification = Classification(task=said, confidence=confidence, evidence="words")
    return Prediction(example=example, classification=classification, is_fast=given.get("is_fast", False))


def test_f1_is_averaged_over_the_tasks_that_occur() -> None:
    """Two of three edits found (F1 0.8), one chat and one edit taken for a chat (F1 2/3)."""
    rows = [predicted(Task.EDIT, Task.EDIT), predicted(Task.EDIT, Task.EDIT), predicted(Task.EDIT, Task.CHAT)]
    assert macro_f1([*rows, predicted(Task.CHAT, Task.CHAT)]) == pytest.approx((0.8 + 2 / 3) / 2)


def test_an_accepted_task_counts_for_the_label() -> None:
    assert macro_f1([predicted(Task.CODE, Task.EDIT, also_ok=frozenset({Task.EDIT}))]) == 1.0


def test_lane_scores_compare_the_label_with_the_policys_lane() -> None:
    rows = [
        predicted(Task.EDIT, Task.EDIT, is_fast=True),
        predicted(Task.EDIT, Task.EDIT, is_fast=False),
        predicted(Task.CHAT, Task.EDIT, is_fast=True),
        predicted(Task.CHAT, Task.CHAT),
    ]
    assert lane_scores(rows) == (0.5, 0.5)


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    rows = [predicted(Task.CHAT, Task.CHAT, confidence=0.75), predicted(Task.CHAT, Task.CODE, confidence=0.75)]
    assert calibration_error(rows) == pytest.approx(0.25)


def test_templated_examples_are_excluded_from_the_natural_figure() -> None:
    found = report([predicted(Task.CHAT, Task.CHAT), predicted(Task.CODE, Task.CHAT, templated=True)], None)
    assert found.macro_f1_natural == 1.0
    assert found.macro_f1_all < 0.5
    assert "macro_f1_all" in found.missed()
    assert found.by_task == {"chat": (1, 1), "code": (1, 0)}


def _row(task: str, text: str, **given: Any) -> dict[str, Any]:
    return {"task": task, "messages": [{"role": "user", "content": text}], **given}


ROWS = [
    _row("translate", "Translate into Spanish: the shop is closed"),
    _row("summarize", "Summarize the following text in one sentence: The shop closed. The owner retired."),
    _row("edit", "Fix the grammar of this sentence: He go home."),
    _row("structured", "List three colours as a JSON array of strings."),
    _row("agent", "Is it raining?", tools=[{"type": "function", "function": {"name": "rain", "parameters": {}}}]),
    {"task": "autocomplete", "messages": None, "completions": {"prompt": "def f(", "suffix": "):"}, "templated": True},
]


@pytest.fixture(name="rows")
def rows_file(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n")
    return path


def test_examples_are_parsed_like_requests(rows: Path) -> None:
    found = read_examples(rows)
    assert [row.task for row in found] == [Task(row["task"]) for row in ROWS]
    assert found[4].query.has_tools
    assert found[5].query.has_suffix
    assert found[5].query.last_user_text == "def f("


@pytest.mark.parametrize("line", ["{", "{}", '{"task": "juggle", "messages": []}', '{"task": "chat"}'])
def test_an_invalid_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\n" + line + "\n")
    with pytest.raises(ValueError, match=r"bad\.jsonl:2"):
        read_examples(path)


def test_the_keyword_baseline_uses_single_words() -> None:
    query = Query(request_id="", model="auto", body=b"", received_s=0.0, last_user_text="please summarize")
    assert by_keywords(query).task is Task.SUMMARIZE


def _main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    # Times of single calls are unreliable while other tests run.
    monkeypatch.setattr(routing, "time_classifier", lambda _: [1.0] * 100)
    monkeypatch.setattr(sys, "argv", ["routing", *arguments])
    return routing.main()


def test_check_exits_1_if_a_figure_misses_its_threshold(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = tmp_path / "figures.json"
    assert _main(monkeypatch, str(rows), "--check", "--json", str(figures)) == 0
    assert json.loads(figures.read_text())["macro_f1_all"] == 1.0
    rows.write_text("\n".join(json.dumps({**row, "task": "code"}) for row in ROWS))
    assert _main(monkeypatch, str(rows), "--check", "--errors") == 1
    printed = capsys.readouterr().out
    assert "missed: macro_f1_all" in printed
    assert "classified as translate" in printed
