"""Rules: facts about single answers that clients of OpenAI's API rely on. Each is a MUST.

A rule sees one exchange, and for a stream also the answer to the same request without `stream`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from jsonschema import Draft202012Validator

from tests.conformance.asks import SCHEMA
from tests.conformance.exchange import Exchange

Check = Callable[[Exchange], bool]
WHOLE: Final = ("chat", "text", "response")
STREAMS: Final = tuple(f"{kind} stream" for kind in WHOLE)
CHUNKS: Final = ("chat stream", "text stream")


@dataclass(frozen=True)
class Rule:
    """`kinds` are the kinds of exchanges that it concerns."""

    text: str
    kinds: tuple[str, ...]
    check: Check

    def holds(self, exchange: Exchange) -> bool:
        """Whether the answer keeps it. One that cannot be read does not."""
        try:
            return self.check(exchange)
        except (AssertionError, LookupError, TypeError, ValueError, AttributeError):
            return False


RULES: Final[list[Rule]] = []


def must(*kinds: str) -> Callable[[Check], Check]:
    """The docstring of the function is the rule."""

    def add(check: Check) -> Check:
        RULES.append(Rule(str(check.__doc__), kinds, check))
        return check

    return add


def is_int(value: Any) -> bool:
    """Whether it is a count."""
    return type(value) is int and value >= 0


def whole(e: Exchange) -> Any:
    """The same answer, not streamed."""
    assert e.whole is not None
    return e.whole.document


def fits(text: str) -> bool:
    """Whether a text is JSON that fits the schema of the requests."""
    return bool(Draft202012Validator(SCHEMA).is_valid(json.loads(text)))


def is_call(call: Any) -> bool:
    """Whether it calls the function that the requests offer."""
    return call["name"] == "weather" and fits(call["arguments"])
