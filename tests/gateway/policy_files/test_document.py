"""Filling in the environment: in any text at any depth, as a whole or in part."""

import pytest

from gateway.policy_files.document import parse_document


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
def test_variables_are_filled_in(text: str, environment: dict[str, str], value: str) -> None:
    document = parse_document(f'a:\n  - b: "{text}"\n    c: ["{text}"]\n', environment, file="p")
    assert document["a"][0]["b"] == value
    assert document["a"][0]["c"] == [value]


def test_a_number_from_the_environment_reads_as_text_that_a_number_accepts() -> None:
    assert parse_document('n: "${N:-4}"\n', {"N": "7"}, file="p")["n"] == "7"
