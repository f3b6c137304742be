"""The routing benchmark: how it reads rows, scores them, and when `--check` fails."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import routing
from benchmarks.routing_rows import Row, by_keywords, read_rows
from benchmarks.routing_scores import Predicted, calibration_error, lanes, macro_f1, report
from gateway.enums import Task
from gateway.types import Classification, Query


def predicted(
    task: Task, said: Task, *, sure: float = 0.9, also_ok: frozenset[Task] = frozenset(), **given: Any
) -> Predicted:
    query = Query(request_id="", model="auto", body=b"", received_s=0.0)
    row = Row(name="r", task=task, also_ok=also_ok, is_templated=given.get("templated", False), query=query)
    classification = Classification(task=said, confidence=sure, evidence="words")
    return Predicted(row=row, said=classification, is_fast=given.get("is_fast", False))


def test_f1_is_averaged_over_the_tasks_that_occur() -> None:
    """Two of three edits found (F1 0.8), one chat and one stranger taken for it (F1 2/3)."""
    rows = [predicted(Task.EDIT, Task.EDIT), predicted(Task.EDIT, Task.EDIT), predicted(Task.EDIT, Task.CHAT)]
    assert macro_f1([*rows, predicted(Task.CHAT, Task.CHAT)]) == pytest.approx((0.8 + 2 / 3) / 2)


def test_a_task_that_is_as_good_counts_for_the_label() -> None:
    assert macro_f1([predicted(Task.CODE, Task.EDIT, also_ok=frozenset({Task.EDIT}))]) == 1.0


def test_lanes_are_judged_by_the_label_and_what_the_policy_did() -> None:
    rows = [
        predicted(Task.EDIT, Task.EDIT, is_fast=True),
        predicted(Task.EDIT, Task.EDIT, is_fast=False),
        predicted(Task.CHAT, Task.EDIT, is_fast=True),
        predicted(Task.CHAT, Task.CHAT),
    ]
    assert lanes(rows) == (0.5, 0.5)


def test_calibration_error_is_the_gap_between_sureness_and_truth() -> None:
    rows = [predicted(Task.CHAT, Task.CHAT, sure=0.75), predicted(Task.CHAT, Task.CODE, sure=0.75)]
    assert calibration_error(rows) == pytest.approx(0.25)


def test_templated_rows_are_left_out_of_the_natural_figure() -> None:
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


def test_rows_are_read_as_the_gateway_reads_requests(rows: Path) -> None:
    found = read_rows(rows)
    assert [row.task for row in found] == [Task(row["task"]) for row in ROWS]
    assert found[4].query.has_tools
    assert found[5].query.has_suffix
    assert found[5].query.last_user_text == "def f("


@pytest.mark.parametrize("line", ["{", "{}", '{"task": "juggle", "messages": []}', '{"task": "chat"}'])
def test_a_line_that_is_no_row_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\n" + line + "\n")
    with pytest.raises(ValueError, match=r"bad\.jsonl:2"):
        read_rows(path)


def test_the_keyword_rule_goes_by_one_word() -> None:
    query = Query(request_id="", model="auto", body=b"", received_s=0.0, last_user_text="please summarize")
    assert by_keywords(query).task is Task.SUMMARIZE


def _main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    # Times of single calls mean little while other tests run: they are not what is tested here.
    monkeypatch.setattr(routing, "time_learned", lambda _: [1.0] * 100)
    monkeypatch.setattr(sys, "argv", ["routing", *arguments])
    return routing.main()


def test_check_ends_0_where_all_is_right_and_1_where_it_is_not(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = tmp_path / "figures.json"
    assert _main(monkeypatch, str(rows), "--check", "--json", str(figures)) == 0
    assert json.loads(figures.read_text())["macro_f1_all"] == 1.0
    rows.write_text("\n".join(json.dumps({**row, "task": "code"}) for row in ROWS))
    assert _main(monkeypatch, str(rows), "--check", "--errors") == 1
    printed = capsys.readouterr().out
    assert "missed: macro_f1_all" in printed
    assert "predicted translate" in printed
