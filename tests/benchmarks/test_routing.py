"""The routing benchmark: reading examples, scores, and the exit code of `--check`."""

import gc
import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from benchmarks import routing
from benchmarks.routing import FILE_THRESHOLDS, TEST_SET_THRESHOLDS, by_keywords, report
from benchmarks.routing_rows import TEST_SETS, Example, read_examples, read_test_set
from benchmarks.routing_scores import Prediction, accuracy, calibration_error, interval, kinds_of, lane_scores, macro_f1
from benchmarks.routing_times import _collecting_as_the_gateway
from gateway.enums import Task
from gateway.types import Classification, Query

read_once = cache(read_test_set)
TIMES = {name: [1.0] * 100 for name in ("python", "compiled", "compiled_megabyte")}


def predicted(
    task: Task, said: Task, *, confidence: float = 0.9, also_ok: frozenset[Task] = frozenset(), **given: Any
) -> Prediction:
    query = Query(request_id="", model="auto", body=b"", received_s=0.0)
    fields = {name: given[name] for name in ("writer", "lang", "form", "has_material") if name in given}
    example = Example(
        name="r", task=task, also_ok=also_ok, is_templated=given.get("templated", False), query=query, **fields
    )
    classification = Classification(task=said, confidence=confidence, evidence=given.get("evidence", "words"))
    return Prediction(
        example=example,
        classification=classification,
        is_fast=given.get("is_fast", False),
        is_keyword=given.get("is_keyword", False),
    )


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


def test_a_request_that_is_right_in_either_lane_counts_in_neither_figure() -> None:
    either = frozenset({Task.CHAT})
    rows = [
        predicted(Task.EDIT, Task.EDIT, is_fast=True),
        predicted(Task.EDIT, Task.CHAT, also_ok=either),
        predicted(Task.CHAT, Task.EDIT, also_ok=frozenset({Task.EDIT}), is_fast=True),
        predicted(Task.EDIT, Task.CHAT, also_ok=frozenset({Task.EXTRACTION})),
    ]
    assert lane_scores(rows) == (1.0, 0.5)
    assert lane_scores(rows, strict=True) == (0.5, pytest.approx(1 / 3))


def test_calibration_error_is_the_gap_between_confidence_and_accuracy_in_bins_of_equal_size() -> None:
    rows = [predicted(Task.CHAT, Task.CHAT, confidence=0.75), predicted(Task.CHAT, Task.CODE, confidence=0.75)]
    assert calibration_error(rows * 10) == pytest.approx(0.25)
    sure = [predicted(Task.CHAT, Task.CODE, confidence=1.0, evidence="tools")]
    assert calibration_error(rows * 10 + sure * 50) == pytest.approx(0.25)


def test_intervals_are_wider_where_writers_differ() -> None:
    right, wrong = ((Task.CHAT, Task.CHAT), (Task.CHAT, Task.CODE))
    same = [predicted(*each, writer=name) for name in "abcd" for each in (right, wrong) for _ in range(20)]
    apart = [predicted(*(right if name in "ab" else wrong), writer=name) for name in "abcd" for _ in range(40)]
    narrow, wide = interval(same, accuracy), interval(apart, accuracy)
    assert narrow is not None
    assert wide is not None
    assert wide[1] - wide[0] > 2 * (narrow[1] - narrow[0])
    assert interval([predicted(*right)], accuracy) is None


@pytest.mark.parametrize(
    ("given", "kinds"),
    [
        ({"form": "instruction", "has_material": True, "is_keyword": True}, ["beside_text"]),
        ({"form": "instruction", "has_material": True}, ["beside_text", "unthought"]),
        ({"form": "followup", "lang": "ja"}, ["unthought", "followups", "other_languages"]),
        ({"form": "system"}, ["system_prompt"]),
        ({}, []),
    ],
)
def test_kinds_are_told_by_form_and_wording(given: dict[str, Any], kinds: list[str]) -> None:
    assert kinds_of(predicted(Task.CHAT, Task.CHAT, **given)) == kinds


def test_templated_examples_are_excluded_from_the_natural_figure() -> None:
    found = report([predicted(Task.CHAT, Task.CHAT), predicted(Task.CODE, Task.CHAT, templated=True)], None)
    assert found.figures["macro_f1_natural"] == 1.0
    assert found.figures["macro_f1_all"] < 0.5
    assert any(line.startswith("macro_f1_all is 0.") for line in found.missed(FILE_THRESHOLDS))
    assert found.by_task == {"chat": (1, 1), "code": (1, 0)}


def test_an_error_or_a_time_is_missed_above_its_threshold() -> None:
    figures = routing.Report(rows=1, figures={"calibration_error": 0.06, "python_p50_us": 80.0})
    thresholds = {"calibration_error": 0.05, "python_p50_us": 90.0}
    assert figures.missed(thresholds) == ["calibration_error is 0.060, the threshold is 0.05"]


@pytest.mark.parametrize("figures", [{}, {"fast_recall": float("nan")}])
def test_a_figure_that_was_not_measured_misses_its_threshold(figures: dict[str, float]) -> None:
    (line,) = routing.Report(rows=1, figures=figures).missed({"fast_recall": 0.85})
    assert line.startswith("fast_recall")


@pytest.mark.slow
def test_every_threshold_of_the_test_sets_is_for_a_figure_that_they_measure() -> None:
    for folder in TEST_SETS:
        rows = [
            Prediction(example=each, classification=by_keywords(each.query), is_fast=False)
            for each in read_once(folder)[::10]
        ]
        assert set(TEST_SET_THRESHOLDS) <= set(report(rows, TIMES).figures)


def test_check_requires_the_thresholds_of_the_newest_test_set_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "read_test_set", lambda _: [])
    judged = {name: is_judged for name, _, _, is_judged in routing._measured(None)}
    assert judged == {f"test set {name}": name == "fourth" for name in ("first", "second", "third", "fourth")}


@pytest.mark.slow
@pytest.mark.parametrize("folder", TEST_SETS, ids=lambda folder: folder.name)
def test_a_test_set_is_the_same_in_every_run(folder: Path) -> None:
    one, same = read_once(folder), read_test_set(folder)
    assert len({each.writer for each in one}) >= 6
    assert len(one) > 900
    assert [each.query.last_user_text for each in one] == [each.query.last_user_text for each in same]
    assert {each.form for each in one} == {"instruction", "complete", "followup", "system"}


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
    monkeypatch.setattr(routing, "time_classifier", lambda _: TIMES)
    monkeypatch.setattr(sys, "argv", ["routing", *arguments])
    return routing.main()


def test_check_exits_1_if_a_figure_misses_its_threshold(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = tmp_path / "figures.json"
    assert _main(monkeypatch, str(rows), "--check", "--json", str(figures)) == 0
    assert json.loads(figures.read_text())["rows.jsonl"]["figures"]["macro_f1_all"] == 1.0
    rows.write_text("\n".join(json.dumps({**row, "task": "code"}) for row in ROWS))
    assert _main(monkeypatch, str(rows), "--check", "--errors") == 1
    printed = capsys.readouterr().out
    assert "missed: macro_f1_all" in printed
    assert "classified as translate" in printed


def test_a_missed_aim_is_printed_and_not_judged(
    rows: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(TIMES, "python", [150.0] * 100)
    assert _main(monkeypatch, str(rows), "--check") == 0
    assert "aim: python_p50_us is 150.000, the threshold is 90 (not judged)" in capsys.readouterr().out
    monkeypatch.setitem(TIMES, "python", [1000.0] * 100)
    assert _main(monkeypatch, str(rows), "--check") == 1


@pytest.mark.parametrize("frozen", [0, 7])
def test_garbage_is_collected_as_before_after_the_times_are_measured(
    frozen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the caller has frozen stays frozen."""
    told: list[str] = []
    monkeypatch.setattr(gc, "get_freeze_count", lambda: frozen)
    monkeypatch.setattr(gc, "freeze", lambda: told.append("frozen"))
    monkeypatch.setattr(gc, "unfreeze", lambda: told.append("unfrozen"))
    before = gc.get_threshold()
    with _collecting_as_the_gateway():
        assert gc.get_threshold() != before
        assert told == ["frozen"]
    assert gc.get_threshold() == before
    assert told == (["frozen"] if frozen else ["frozen", "unfrozen"])
