"""Output that runs away is found within 4 KB, and real documents never are."""

import base64
import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.validation.runaway import LONG_RUN, RunawayDetector

LIMIT = 4096


def cut_at(text: str, chunk: int, *, is_json: bool = True) -> tuple[int, str] | None:
    """(the characters read, what ran away)."""
    detector = RunawayDetector(is_json=is_json)
    for at in range(0, len(text), chunk):
        found = detector.feed(text[at : at + chunk])
        if found is not None:
            return at + chunk, found
    return None


STARTS = ['{"a":1', '{"a": [1, {"b"', '{"a": "x"', "", '{"a": {"b": [1, 2]}}', '{"a":', '{"ab": "c\\"d\\\\", ']
SPACES = [" ", "\n", "\t", "\r\n", " \n", "\n\n  \t", "\n" + " " * 40]


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("unit", SPACES)
@pytest.mark.parametrize("chunk", [1, 7, 300])
def test_white_space_anywhere_is_cut(start: str, unit: str, chunk: int) -> None:
    found = cut_at(start + unit * (20_000 // len(unit)), chunk)
    assert found is not None
    assert found[1] == "whitespace_runaway"
    assert found[0] - len(start) <= LIMIT


@pytest.mark.parametrize("start", ['{"a":1', "[", "-", '{"s": "x", "n": 0.', '{"n": 1e', "[1, 2, "])
@pytest.mark.parametrize("seed", [None, 1])
def test_the_digits_of_one_number_are_cut(start: str, seed: int | None) -> None:
    digits = "0" * 9000 if seed is None else "".join(random.Random(seed).choices("0123456789", k=9000))
    found = cut_at(start + digits, 3)
    assert found is not None
    assert found[1] == "number_runaway"
    assert found[0] - len(start) <= LIMIT


@pytest.mark.parametrize(
    "text",
    ['{"s": "' + unit * 9000 for unit in (" the", "\\n", "\\t\\n", "ha ", ".", "\\u0020", "\\\\", '\\"', "的", "\\n  ")]
    + ["[" + unit * 9000 for unit in ("0,", "0, ", "null,", "true, ", "-1.5,\n")],
)
def test_one_token_over_and_over_is_cut(text: str) -> None:
    found = cut_at(text, 4)
    assert found is not None
    assert found[0] <= LIMIT + 8


@pytest.mark.parametrize("text", ['{"s": "' + "A" * 200_000, '{"s": "' + "ab" * 100_000, "[" + "[]," * 60_000])
def test_what_is_plausible_when_shorter_is_cut_late(text: str) -> None:
    found = cut_at(text, 64)
    assert found is not None
    assert LONG_RUN <= found[0] <= LONG_RUN + LIMIT


@given(st.integers(), st.integers(1, 400))
def test_any_mixture_of_white_space_is_cut(seed: int, chunk: int) -> None:
    found = cut_at("".join(random.Random(seed).choices(" \n\t\r", k=5000)), chunk)
    assert found is not None
    assert found[0] <= LIMIT + chunk


def nested(depth: int, leaf: Any) -> Any:
    for _ in range(depth):
        leaf = {"key": [leaf]}
    return leaf


RANDOM = random.Random(5)
DOCUMENTS = {
    "deep and pretty": json.dumps(nested(100, list(range(50))), indent=8),
    "tabs": json.dumps(nested(200, {"a": 1, "b": [1, 2]}), indent="\t"),
    "long string": json.dumps({"s": " ".join(RANDOM.choices("the of and to in a is that for it".split(), k=40_000))}),
    "repeated sentence": json.dumps({"s": "The quick brown fox jumps over the lazy dog. " * 500}),
    "base64": json.dumps({"data": base64.b64encode(RANDOM.randbytes(90_000)).decode()}),
    "base64 of zeros": json.dumps({"data": base64.b64encode(bytes(30_000)).decode()}),
    "hexadecimal": json.dumps({"data": RANDOM.randbytes(50_000).hex()}),
    "digits in a string": json.dumps({"pi": "".join(RANDOM.choices("0123456789", k=50_000))}),
    "integers": json.dumps(list(range(30_000))),
    "floats": json.dumps([RANDOM.random() for _ in range(20_000)], indent=2),
    "matrix of zeros": json.dumps([[0] * 28 for _ in range(28)] * 4, indent=1),
    "equal rows": json.dumps([{"id": 1, "ok": True, "name": None}] * 5000),
    "short equal rows": json.dumps([{"a": 1}] * 5000, separators=(",", ":")),
    "equal pairs": json.dumps([[0, 1]] * 5000),
    "equal strings": json.dumps(["a"] * 5000),
    "empty rows": json.dumps([[]] * 5000),
    "large integer": json.dumps({"n": 10**3000}),
    "escapes": json.dumps({"s": "\n".join(f"{n}\t\"{n}\"" for n in range(5000))}),
    "ruler": json.dumps({"s": "-" * 3000 + "\n" + "=" * 3000}),
    "csv": json.dumps({"csv": "0,0,1\n" * 200 + "1,2,3\n" * 200}),
}  # fmt: skip


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.parametrize("chunk", [5, 4096])
def test_real_documents_are_never_cut(name: str, chunk: int) -> None:
    assert cut_at(DOCUMENTS[name], chunk) is None


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=40) | st.dictionaries(st.text(), inner, max_size=10),
    max_leaves=60,
)


@given(VALUES, st.sampled_from([None, 1, 4, "\t"]), st.integers(1, 3000), st.booleans())
def test_no_generated_document_is_cut(value: Any, indent: Any, chunk: int, ascii_only: bool) -> None:
    assert cut_at(json.dumps(value, indent=indent, ensure_ascii=ascii_only), chunk) is None


@given(VALUES, st.integers(200, 600))
def test_no_table_of_equal_rows_is_cut(row: Any, count: int) -> None:
    """A row is an object or an array with content: without any, a table is a run of one token."""
    assert cut_at(json.dumps([{"row": row, "id": 7}] * count), 97) is None


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=300, max_size=900, unique=True))
def test_no_array_of_numbers_is_cut(numbers: list[float]) -> None:
    assert cut_at(json.dumps(numbers), 31) is None


def test_plain_text_has_no_strings_or_numbers() -> None:
    assert cut_at("".join(random.Random(1).choices("0123456789", k=9000)), 9, is_json=False) is None
    assert cut_at("ab" * 9000, 9, is_json=False) is not None
    assert cut_at("\n" * 9000, 9, is_json=False) is not None
