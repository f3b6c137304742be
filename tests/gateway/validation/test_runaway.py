"""Output that runs away is found within 4 KB, and real documents never are."""

import base64
import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.enums import FormatKind
from gateway.types import OutputFormat
from gateway.validation.json_schema import SchemaCache
from gateway.validation.runaway import LONG_RUN, MAX_PERIOD, RunawayDetector
from gateway.validation.text_checks import TextCheck, TextChecks

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
    [
        '{"s": "' + unit * 9000
        for unit in (" the", "\\n", "\\t\\n", "ha ", ".", "\\u0020", "\\\\", '\\"', "的", "\\n  ")
    ],
)
def test_one_token_over_and_over_is_cut(text: str) -> None:
    found = cut_at(text, 4)
    assert found is not None
    assert found[0] <= LIMIT + 8


LATE = {
    "base64 of zeros": '{"s": "' + "A" * 200_000,
    "an alphabet": '{"s": "' + "ab" * 100_000,
    "empty arrays": "[" + "[]," * 60_000,
    "numbers": "[" + "0," * 100_000,
    "numbers with spaces": "[" + "-1.5, " * 40_000,
    "rows of a text": '{"s": "' + "0,0,1\\n" * 40_000,
    "a list in a text": '{"s": "' + "ha, " * 40_000,
}


@pytest.mark.parametrize("name", LATE)
def test_equal_elements_are_cut_late(name: str) -> None:
    found = cut_at(LATE[name], 64)
    assert found is not None
    assert LONG_RUN <= found[0] <= 1.5 * LONG_RUN + LIMIT  # white space is not counted


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
    "csv": json.dumps({"csv": "0,0,1\n" * 600 + "1,2,3\n" * 600}),
    "csv of one column": json.dumps({"csv": "value\r\n" + "0\r\n" * 1200}),
    "csv without values": json.dumps({"csv": ",,,\n" * 1200}),
    "csv of words": json.dumps({"csv": "yes;no\n" * 1200}),
    "equal numbers": json.dumps([0] * 12_000),
    "equal numbers, compact": json.dumps([0] * 12_000, separators=(",", ":")),
    "equal numbers, pretty": json.dumps({"a": {"b": [0] * 12_000}}, indent=4),
    "equal numbers, tabs": json.dumps([-1.5] * 9000, indent="\t"),
    "nulls": json.dumps([None] * 9000),
    "booleans": json.dumps([True] * 9000, indent=2),
    "alternating numbers": json.dumps([0, 1] * 9000),
    "empty objects": json.dumps([{}] * 9000, indent=2),
    "equal short rows": json.dumps([{"a": 1}] * 20_000),
    "numbers in a text": json.dumps({"s": "0 " * 4000 + "1.0, " * 4000 + "0x00 " * 4000}),
    "escaped bytes": json.dumps({"s": "\\x00" * 2000}),
    "dna": json.dumps({"s": "A" * 9000 + "ACGT" * 9000}),
    "lines of a comment": json.dumps({"code": ("# " + "-" * 76 + "\n") * 200 + "# " + "=" * 3000 + "\n" + "/" * 3000}),
    "markdown table": json.dumps({"s": "| a | b |\n|---|---|\n" + "| 0 | 1 |\n" * 900}),
    "markdown list": json.dumps({"s": "- [ ] \n" * 900}),
    "laughter": json.dumps({"s": "ha " * 1100}),
    "sql": json.dumps({"sql": "INSERT INTO t VALUES " + "(0,NULL)," * 2000}),
    "svg path": json.dumps({"d": "M0 0" + " L1 1" * 2000}),
}  # fmt: skip
PLAIN = {
    "csv": "0,0,1\n" * 2000,
    "python list": "[" + "0, " * 4000 + "]",
    "base64": base64.b64encode(bytes(40_000)).decode(),
    "ruler": "=" * 9000 + "\n" + "-" * 9000,
    "patch": "+0,\n" * 4000,
}


@pytest.mark.parametrize("name", PLAIN)
def test_real_texts_are_never_cut(name: str) -> None:
    assert cut_at(PLAIN[name], 7, is_json=False) is None


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.parametrize("chunk", [5, 4096])
def test_real_documents_are_never_cut(name: str, chunk: int) -> None:
    assert cut_at(DOCUMENTS[name], chunk) is None


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=40) | st.dictionaries(st.text(), inner, max_size=10),
    max_leaves=60,
)


@pytest.mark.slow
@given(VALUES, st.sampled_from([None, 1, 4, "\t"]), st.integers(1, 3000), st.booleans())
def test_no_generated_document_is_cut(value: Any, indent: Any, chunk: int, ascii_only: bool) -> None:
    assert cut_at(json.dumps(value, indent=indent, ensure_ascii=ascii_only), chunk) is None


@pytest.mark.slow
@given(VALUES, st.integers(200, 600))
def test_no_table_of_equal_rows_is_cut(row: Any, count: int) -> None:
    """A row is an object or an array with content: without any, a table is a run of one token."""
    assert cut_at(json.dumps([{"row": row, "id": 7}] * count), 97) is None


@pytest.mark.slow
@given(st.integers(), st.integers(300, 900), st.sampled_from([1.0, 1e300, 1e-9]))
def test_no_array_of_numbers_is_cut(seed: int, count: int, scale: float) -> None:
    source = random.Random(seed)
    numbers = [source.uniform(-scale, scale) for _ in range(count)]
    assert cut_at(json.dumps(numbers), 31) is None


SCALARS = st.integers(-99, 999) | st.booleans() | st.none() | st.floats(-9, 9).map(lambda number: round(number, 2))
LAYOUTS: list[Any] = [{}, {"separators": (",", ":")}, {"indent": 1}, {"indent": 4}, {"indent": "\t"}]


@given(SCALARS | st.lists(SCALARS, max_size=3), st.integers(1, 4000), st.sampled_from(LAYOUTS), st.integers(1, 3000))
def test_no_array_of_equal_elements_is_cut(element: Any, count: int, layout: Any, chunk: int) -> None:
    assert cut_at(json.dumps({"a": {"b": [element] * count}}, **layout), chunk) is None


@given(
    st.lists(st.sampled_from(["0", "1.5", "-7", "x", "", "NA", '"q"']), min_size=1, max_size=6),
    st.sampled_from(",;\t|"),
    st.sampled_from(["\n", "\r\n"]),
    st.integers(1, 3000),
)
def test_no_table_in_a_text_is_cut(cells: list[str], separator: str, end: str, count: int) -> None:
    table = (separator.join(cells) + end) * count
    if table.strip():
        assert cut_at(json.dumps({"csv": table}), 61) is None
        assert cut_at(table, 61, is_json=False) is None


WORDS = st.text(st.characters(categories=["Ll", "Lu"], exclude_characters="0123456789"), min_size=1, max_size=7)


@given(WORDS, st.sampled_from([" ", "! ", "\u00a0", "… "]), st.booleans(), st.integers(1, 99))
def test_any_word_over_and_over_is_cut_within_4_kb(word: str, space: str, ascii_only: bool, chunk: int) -> None:
    unit = json.dumps(word + space, ensure_ascii=ascii_only)[1:-1]
    if len(unit) <= MAX_PERIOD:
        found = cut_at('{"s": "' + unit * (9000 // len(unit)), chunk)
        assert found is not None
        assert found[0] <= LIMIT + 7 + chunk


ARRAY = {"type": "array", "items": {"type": "integer"}}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bound", [{"maxItems": 50_000}, {"minItems": 50_000}])
def test_an_array_whose_length_the_schema_limits_is_never_cut(layout: Any, bound: dict[str, int]) -> None:
    text = json.dumps({"a": [0] * 50_000}, **layout)
    check = checked({"properties": {"a": ARRAY | bound}})
    assert next(filter(None, map(check.feed, pieces(text, 999))), None) is None
    assert check.finish() is None


def test_an_array_that_exceeds_its_limit_is_an_error_at_once() -> None:
    check = checked({"properties": {"a": ARRAY | {"maxItems": 2000}}})
    read = 0
    for piece in pieces('{"a": [' + "0, " * 9000, 60):
        read += len(piece)
        if (error := check.feed(piece)) is not None:
            break
    assert error is not None
    assert (error.keyword, read // 3) == ("maxItems", pytest.approx(2000, abs=25))


@pytest.mark.parametrize(
    ("schema", "is_early"),
    [
        ({"properties": {"n": {}}}, True),
        ({"properties": {"n": {}}, "required": ["n"], "$defs": {"x": ARRAY}}, True),
        ({"properties": {"n": {}}, "additionalProperties": True}, False),
        ({"properties": {"n": {}}, "anyOf": [{"properties": {"a": ARRAY}}]}, False),
        ({"properties": {"a": ARRAY}}, False),
        ({"properties": {"a": True}}, False),
        ({"allOf": [{"properties": {"n": {}}}, {"properties": {"a": ARRAY}}]}, False),
        ({"type": "object"}, False),
        (True, False),
    ],
)
def test_an_array_that_the_schema_does_not_mention_is_cut_early(schema: Any, is_early: bool) -> None:
    check = checked(schema)
    text = '{"n": 1, "a": [' + "0, " * 4000
    error = next(filter(None, map(check.feed, pieces(text, 50))), None)
    assert (error is not None and error.keyword == "repetition_runaway") is is_early


def checked(schema: Any) -> TextCheck:
    wanted = OutputFormat(form=FormatKind.JSON_SCHEMA, schema=schema)
    return TextChecks(SchemaCache(), early=True, guarded=True).of_format(wanted)


def pieces(text: str, length: int) -> list[str]:
    return [text[at : at + length] for at in range(0, len(text), length)]


def test_plain_text_has_no_strings_or_numbers() -> None:
    assert cut_at("".join(random.Random(1).choices("0123456789", k=9000)), 9, is_json=False) is None
    assert cut_at("ab " * 9000, 9, is_json=False) is not None
    assert cut_at("\n" * 9000, 9, is_json=False) is not None
