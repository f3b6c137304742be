"""The parts of the demo: groups of cases, each a request to send and the response that is expected.

Pure data and rules; no client, no processes, no output.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import jsonschema


class DemoFault(StrEnum):
    """What is wrong with the worker while a case is sent."""

    NONE = "none"
    CORRUPT_ALTERNATE = "every other response is corrupted, beginning with the next one"
    CORRUPT = "every response is corrupted"
    TRUNCATE = "connections close within the response"
    OVERLOADED = "the worker responds with 429"
    WORKER_KILLED = "the worker process is killed"
    WORKER_SLOW = "the worker responds late"


class Api(StrEnum):
    """The API that a case uses. Its prompt is the user's message, the text before a gap, or the input of a decision."""

    CHAT = "chat completions"
    COMPLETION = "completions"
    DECISION = "decisions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule for a response's text: a description for people, and a check that returns what is wrong, or None."""

    description: str
    check: Callable[[str], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """An expected response. `attempts`, `fallback` and `answered_by` are regular expressions for the whole header; ''
    means absent."""

    answer: Rule
    status: int = 200
    task: str | None = None
    route: str | None = None
    target: str = ""
    attempts: str = ""
    fallback: str = ""
    answered_by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One request of the demo. `body` and `headers` are added to it unchanged.

    It is sent `times` times, at once if `concurrent`, and every response must be as expected. With `repeat`, this round
    is repeated until `consecutive` rounds contained an expected response; every other request must at least succeed.
    `within_s` limits the duration of a case that fails. `needs_smollm2`: skipped without SmolLM2.
    """

    title: str
    prompt: str
    expect: Expectation
    api: Api = Api.CHAT
    model: str = "auto"
    body: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    stream: bool = False
    fault: DemoFault = DemoFault.NONE
    times: int = 1
    concurrent: bool = False
    repeat: bool = False
    consecutive: int = 1
    within_s: float = 900.0
    needs_smollm2: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Cases that show one feature, and a sentence about it."""

    title: str
    description: str
    cases: tuple[Case, ...]


def equals(text: str) -> Rule:
    """The response is this text, ignoring surrounding white space."""
    return Rule(description="exact", check=lambda got: None if got.strip() == text else f"response is not {text!r}")


def equals_json(value: Any) -> Rule:
    """The response is this JSON value, in any layout."""

    def check(got: str) -> str | None:
        try:
            return None if json.loads(got) == value else f"response is not {json.dumps(value)}"
        except ValueError:
            return "response is not JSON"

    return Rule(description="exact", check=check)


def matches_schema(schema: Mapping[str, Any]) -> Rule:
    """The response is JSON that is valid for the schema."""
    validator = jsonschema.Draft202012Validator(schema)

    def check(got: str) -> str | None:
        try:
            return None if validator.is_valid(json.loads(got)) else "response does not match the schema"
        except ValueError:
            return "response is not JSON"

    return Rule(description="matches the schema", check=check)


def contains(word: str) -> Rule:
    """The response contains the word, in any case."""
    return Rule(
        description=f"contains {word}",
        check=lambda got: None if word.lower() in got.lower() else f"response does not contain {word!r}",
    )


def not_empty() -> Rule:
    """The response has text."""
    return Rule(description="not empty", check=lambda got: None if got.strip() else "response is empty")


def answers_all(expected: Mapping[str, Any]) -> Rule:
    """The response is a JSON object with an answer for each of these questions: the one given, or any if it is None."""

    def check(got: str) -> str | None:
        try:
            answers = json.loads(got)
        except ValueError:
            return "response is not JSON"
        if list(answers) != list(expected):
            return f"response does not answer {', '.join(expected)}"
        wrong = [name for name, value in expected.items() if value not in (None, answers[name])]
        return f"the answer is not {expected[wrong[0]]!r} to {wrong[0]}" if wrong else None

    return Rule(description="an answer for each question", check=check)


def error_code(code: str) -> Rule:
    """The response is an error with this code."""
    return Rule(
        description=f"error {code}", check=lambda got: None if got == code else f"error code is {got!r}, not {code!r}"
    )
