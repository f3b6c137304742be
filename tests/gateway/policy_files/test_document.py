"""Variable substitution in strings at any depth, and the limit on nesting."""

from collections.abc import Callable

import pytest

from gateway.errors import PolicyError
from gateway.policy_files.document import parse_document
from tests.measured import cpu_s


@pytest.mark.parametrize(
    ("text", "environment", "value"),
    [
        ("${A}", {"A": "x"}, "x"),
        ("${A:-d}", {}, "d"),
        ("${A:-d}", {"A": ""}, "d"),
        ("${A:-}", {}, ""),
        ("http://${H:-localhost}:${P:-80}/", {"P": "8080"}, "http://localhost:8080/"),
        ("${U:-http://127.0.0.1:8001}", {}, "http://127.0.0.1:8001"),
        ("$A costs $5", {"A": "x"}, "$A costs $5"),
    ],
)
def test_variables_are_substituted(text: str, environment: dict[str, str], value: str) -> None:
    document = parse_document(f'a:\n  - b: "{text}"\n    c: ["{text}"]\n', environment, file="p")
    assert document["a"][0]["b"] == value
    assert document["a"][0]["c"] == [value]


def test_a_number_key_accepts_a_number_from_the_environment() -> None:
    assert parse_document('n: "${N:-4}"\n', {"N": "7"}, file="p")["n"] == "7"


@pytest.mark.parametrize(
    "nested",
    [
        lambda depth: "a: " + "[" * depth,
        lambda depth: "{a: " * depth,
        lambda depth: "- " * depth + "a",
        lambda depth: "? " * depth + "a",
        lambda depth: "\n".join(" " * indent + "a:" for indent in range(depth)),
    ],
)
def test_deep_nesting_is_refused_at_its_position_in_bounded_time(
    nested: Callable[[int], str],
) -> None:
    """Text after the position is not parsed."""

    def refused(text: str) -> None:
        with pytest.raises(PolicyError, match=r"p:\d+:\d+: invalid YAML: nested more than 64 levels deep"):
            parse_document(text, {}, file="p")

    little, much = nested(70), nested(700)
    assert cpu_s(lambda: refused(much)) < 4 * cpu_s(lambda: refused(little))


def test_nesting_up_to_the_limit_is_accepted() -> None:
    assert parse_document("a: " + "[" * 60 + "]" * 60, {}, file="p")
