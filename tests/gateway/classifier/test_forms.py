"""Requests that their form assigns to a task."""

from collections.abc import Callable

import pytest

from gateway.classifier.forms import CONFIDENCE, form_of, from_form
from gateway.enums import Task
from gateway.types import Query
from training.classifier.lines import read_lines

MakeQuery = Callable[..., Query]


@pytest.mark.parametrize(
    ("system", "user", "task"),
    [
        ("", "def area(r):\n    return <CURSOR>\n", Task.AUTOCOMPLETE),
        ("", "Dear Ms Kern, <|caret|> Kind regards", Task.AUTOCOMPLETE),
        ("Answer with SEARCH/REPLACE blocks.", "rename n to count", Task.EDIT),
        ("Sort the mail. Choose one of: invoice, complaint, praise, other", "I love it", Task.STRUCTURED),
        ("", "What does a cursor do?", None),
        ("You are a helpful assistant.", "Write a poem", None),
    ],
)
def test_forms_are_recognised(query: MakeQuery, system: str, user: str, task: Task | None) -> None:
    found = from_form(query(system_text=system, last_user_text=user))
    assert (found.task if found else None) is task


def test_the_confidence_of_every_form_is_reached_on_the_writers_lines(query: MakeQuery) -> None:
    """Where fewer than five lines have a form, their number proves nothing."""
    lines = [(form_of(query(system_text=line.system, last_user_text=line.asked)), line) for line in read_lines()]
    for form, (task, confidence) in CONFIDENCE.items():
        found = [line for each, line in lines if each == form]
        right = [line for line in found if task in (line.task, *line.also_ok)]
        assert len(found) < 5 or len(right) / len(found) >= confidence, form


@pytest.mark.parametrize("unit", ["<", "one of: a, ", "[", "@@ ", "labels "])
def test_long_texts_take_bounded_time(query: MakeQuery, unit: str) -> None:
    text = unit * (1_000_000 // len(unit))
    assert form_of(query(system_text=text, last_user_text=text)) in {None, "labels"}
