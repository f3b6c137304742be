"""Requests that their form assigns to a task."""

import re
import time
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
        ("Use <<<<<<< SEARCH, then ======= and >>>>>>> REPLACE.", "rename n to count", Task.EDIT),
        ("Use << SEARCH.", "rename n to count", None),
        ("", "We thank R1 and ⟨Cursor⟩, and", Task.AUTOCOMPLETE),
        ("", "It ends with a block: █", Task.AUTOCOMPLETE),
        ("", "for i in [Gap 3]:", Task.AUTOCOMPLETE),
        ("Set one of the tags (Bill, Praise; Other).", "I love it", Task.STRUCTURED),
        ("Set one of the tags. It has a, b and c (new, old, odd).", "I love it", None),
        ("Call a tool with one of the tags (bill, praise, other).", "I love it", None),
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


@pytest.mark.parametrize("unit", ["<", "one of: a, ", "[", "@@ ", "labels ", "(a,b,c)", ":a", "<<<<< "])
def test_long_texts_take_bounded_time(query: MakeQuery, unit: str) -> None:
    """Every request is searched, on the event loop. A search that reads a run of signs from each of them on takes
    seconds, others about a millisecond."""
    text = unit * (1_000_000 // len(unit))
    asked = query(system_text=text, last_user_text=text)
    started = time.thread_time()
    assert form_of(asked) in {None, "labels"}
    assert time.thread_time() - started < 0.5


@pytest.mark.parametrize(
    "unit", ["Answer the customer politely and never name a price. ", '{"id": 7, "name": "Rosa", "on": true},\n']
)
def test_a_long_system_prompt_is_searched_in_about_the_time_of_a_long_message(query: MakeQuery, unit: str) -> None:
    """`re` tries a pattern of many beginnings at every character, which took a hundred times as long."""
    text = unit * (8192 // len(unit))
    searched = min(_seconds(lambda: form_of(query(system_text=text))) for _ in range(5))
    split = min(_seconds(lambda: re.findall(r"\w+", text)) for _ in range(5))
    assert searched < 5 * split


def _seconds(call: Callable[[], object]) -> float:
    started = time.thread_time()
    call()
    return time.thread_time() - started
