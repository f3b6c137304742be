"""What a tour is made of: chapters of rows, each with the request to send and everything that must come of it.

Data and small pure rules; knows no client, no process, no table.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import jsonschema


class Scene(StrEnum):
    """How the fast lane's surroundings are while a row is sent."""

    CALM = "calm"
    SPOILT_ONCE = "every other answer spoilt, the next one first"
    SPOILT = "every answer spoilt"
    CUT_OFF = "connections close inside the answer"
    CROWDED = "the worker answers 429"
    KILLED = "the worker's process is killed"
    SLOW = "the worker answers late"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What an answer's text must be: in words for people, and as a check that returns a complaint or None."""

    says: str
    check: Callable[[str], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What must come back. `attempts` and `fallback` are regular expressions on the whole header; '' means absent."""

    answer: Rule
    status: int = 200
    task: str | None = None
    route: str | None = None
    target: str = ""
    attempts: str = ""
    fallback: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the tour. `body` and `headers` are added to the request as they are.

    `times` requests are sent and all must come out as expected; `together` sends them at once. With `until` they are
    sent again and again until, `in_a_row` times, one of them comes out as expected; all must at least be answered.
    `within_s` only bounds how long a demo that fails takes. `needs_smollm2`: skipped without SmolLM2.
    """

    asked: str
    prompt: str
    expect: Expectation
    model: str = "auto"
    body: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    stream: bool = False
    scene: Scene = Scene.CALM
    times: int = 1
    together: bool = False
    until: bool = False
    in_a_row: int = 1
    within_s: float = 900.0
    needs_smollm2: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Chapter:
    """Rows that tell one thing, and that thing in a sentence."""

    title: str
    says: str
    rows: tuple[Row, ...]


def exactly(text: str) -> Rule:
    """The answer is this text, but for white space around it."""
    return Rule(says="exact", check=lambda got: None if got.strip() == text else f"answer is not {text!r}")


def same_json(value: Any) -> Rule:
    """The answer is this JSON value, however it is laid out."""

    def check(got: str) -> str | None:
        try:
            return None if json.loads(got) == value else f"answer is not {json.dumps(value)}"
        except ValueError:
            return "answer is not JSON"

    return Rule(says="exact", check=check)


def fits(schema: Mapping[str, Any]) -> Rule:
    """The answer is JSON that fits the schema, whatever it says."""
    validator = jsonschema.Draft202012Validator(schema)

    def check(got: str) -> str | None:
        try:
            return None if validator.is_valid(json.loads(got)) else "answer does not fit the schema"
        except ValueError:
            return "answer is not JSON"

    return Rule(says="fits the schema", check=check)


def speaks_of(word: str) -> Rule:
    """The answer contains the word."""
    return Rule(
        says=f"speaks of {word}", check=lambda got: None if word.lower() in got.lower() else f"answer lacks {word!r}"
    )


def anything() -> Rule:
    """There is an answer."""
    return Rule(says="some answer", check=lambda got: None if got.strip() else "answer is empty")


def error(code: str) -> Rule:
    """The answer is an error with this code."""
    return Rule(says=f"error {code}", check=lambda got: None if got == code else f"error code is {got!r}, not {code!r}")
