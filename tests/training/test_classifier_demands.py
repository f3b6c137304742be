"""What requests say of the form of their answers, added to lines by program."""

import random

import pytest

from gateway.enums import Task
from training.classifier.demands import DEMANDS, with_demands
from training.classifier.lines import Line


def varied(line: Line, times: int = 600) -> list[Line]:
    rng = random.Random(1)
    return [found for _ in range(times) if (found := with_demands(rng, line)) != line]


def line(asked: str, task: Task, **given: object) -> Line:
    fields = {"writer": "w", "number": 1, "also_ok": (), "lang": "en", "form": "complete"}
    return Line(asked=asked, task=task, **{**fields, **given})  # type: ignore[arg-type]


def test_demands_on_the_answer_leave_the_task_and_what_is_asked() -> None:
    found = varied(line("shorten this", Task.EDIT))
    assert 10 < len(found) < 80
    assert {each.task for each in found} == {Task.EDIT}
    assert all("shorten this" in each.asked for each in found)


def test_a_chat_whose_answer_is_to_be_data_is_structured() -> None:
    found = varied(line("Who was Garamond?", Task.CHAT))
    data = [each for each in found if any(phrase in each.asked for phrase in DEMANDS["en", "data"])]
    assert data
    assert {(each.task, each.also_ok) for each in data} == {(Task.STRUCTURED, (Task.CHAT,))}
    assert {each.task for each in found if each not in data} == {Task.CHAT}


@pytest.mark.parametrize(
    "given",
    [
        {"task": Task.AUTOCOMPLETE},
        {"task": Task.EDIT, "form": "system"},
        {"task": Task.EDIT, "form": "followup"},
        {"task": Task.EDIT, "lang": "xx"},
    ],
)
def test_other_lines_stay_as_they_are(given: dict[str, object]) -> None:
    assert varied(line("so we went to the", **given)) == []  # type: ignore[arg-type]
