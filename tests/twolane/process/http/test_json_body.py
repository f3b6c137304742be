"""An untrusted JSON text is judged before a parser builds anything of it."""

import json
import tracemalloc
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.measured import cpu_s
from twolane.process.http.json_body import MAX_DEPTH, MAX_VALUES, JsonBodyError, read_json, shape_of

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def depth_of(value: Any) -> int:
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return 1 + max(map(depth_of, inner), default=0)
    return 0


def values_of(value: Any) -> int:
    if isinstance(value, dict | list):
        return 1 + sum(map(values_of, value.values() if isinstance(value, dict) else value))
    return 1


@pytest.mark.slow
@given(JSON)
def test_depth_is_exact_and_the_number_of_values_an_upper_bound(value: Any) -> None:
    depth, values = shape_of(orjson.dumps(value))
    assert depth == depth_of(value)
    assert values_of(value) <= values <= 2 * values_of(value)


@given(depth=st.integers(1, 2 * MAX_DEPTH), text=st.text(), noise=st.integers(0, 100))
def test_depth_counts_neither_brackets_in_strings_nor_siblings(depth: int, text: str, noise: int) -> None:
    value: Any = [text, "]}[{", '\\"[', {}, []]
    for level in range(depth - 1):
        value = [value, text, *[{} for _ in range(noise if level == 0 else 0)]] if level % 2 else {text: value}
    assert shape_of(orjson.dumps(value))[0] == depth_of(value)


def test_a_repeated_key_is_found_among_many_in_linear_time() -> None:
    def refuse(members: int) -> None:
        body = json.dumps({f"k{number}": 0 for number in range(members)})[:-1] + f', "k{members - 1}": 1}}'
        with pytest.raises(JsonBodyError) as refused:
            read_json(body.encode())
        assert refused.value.key == f"k{members - 1}"

    assert cpu_s(lambda: refuse(MAX_VALUES // 10), times=2) < 50 * cpu_s(lambda: refuse(MAX_VALUES // 100))


@pytest.mark.slow
@given(JSON)
def test_any_valid_text_is_taken_unchanged(value: Any) -> None:
    body = orjson.dumps(value)
    assert read_json(body) == (body, value)


@given(st.binary())
def test_arbitrary_bytes_are_taken_only_if_they_are_json(body: bytes) -> None:
    try:
        checked, _ = read_json(body)
    except JsonBodyError:
        return
    json.loads(checked)


@pytest.mark.parametrize("piece", [b"[", b'{"a":', b'[{"a":', b'["]",'])
def test_a_deep_text_is_refused_without_recursion(piece: bytes) -> None:
    with pytest.raises(JsonBodyError, match=f"deeper than {MAX_DEPTH} levels"):
        read_json(piece * (4_000_000 // len(piece)))


@pytest.mark.parametrize("piece", [b"[],", b"1,", b'"",', b'{"a":1},', b"[[[]]],"])
def test_a_wide_text_is_refused_before_its_values_exist(piece: bytes) -> None:
    """Four megabytes of text would become a hundred of objects."""
    body = b'{"x":[' + piece * (4_000_000 // len(piece)) + b"1]}"
    tracemalloc.start()
    try:
        with pytest.raises(JsonBodyError, match=f"more than {MAX_VALUES} values"):
            read_json(body)
        assert tracemalloc.get_traced_memory()[1] < 10 * len(body)
    finally:
        tracemalloc.stop()


def test_a_million_keys_are_refused() -> None:
    body = b"{" + b",".join(b'"k%d":0' % at for at in range(1_000_000)) + b"}"
    with pytest.raises(JsonBodyError, match="values"):
        read_json(body)


@pytest.mark.parametrize("text", ["[" * 200, '\\"[{,' * 100_000, "," * 200_000, "\\\\" * 1000])
def test_structure_within_a_string_does_not_count(text: str) -> None:
    body = orjson.dumps({"x": text})
    assert read_json(body)[0] == body


@pytest.mark.parametrize(
    ("body", "key"),
    [
        (b'{"a":1,"b":2,"a":3}', "a"),
        (b'{"a":1,"\\u0061":3}', "a"),
        (b'[{"x":[{"b":1,"c":1,"c":2}]}]', "c"),
        (b'{"":1,"":1}', ""),
    ],
)
def test_a_repeated_key_is_refused_and_named(body: bytes, key: str) -> None:
    with pytest.raises(JsonBodyError) as told:
        read_json(body)
    assert told.value.key == key


def test_a_number_of_many_digits_is_refused_without_being_converted() -> None:
    body = b'{"x":' + b"9" * 3_000_000 + b"}"
    with pytest.raises(JsonBodyError, match="not valid JSON"):
        read_json(body)


@given(JSON, st.sampled_from([None, 1]), st.sampled_from([(",", ":"), (", ", ": "), (" ,", " :"), (",", "\t:")]))
def test_a_text_is_read_however_it_is_spaced(value: Any, indent: int | None, separators: tuple[str, str]) -> None:
    body = json.dumps(value, indent=indent, separators=separators).encode()
    assert read_json(body) == (body, value)


KEYS = st.text('":\\ x', max_size=3)


@given(st.lists(st.tuples(KEYS, KEYS), max_size=4), st.sampled_from(["", " ", "\n\t"]), st.booleans())
def test_a_key_is_found_to_be_repeated_whatever_its_text(
    members: list[tuple[str, str]], space: str, is_nested: bool
) -> None:
    text = ",".join(f"{json.dumps(key)}{space}:{json.dumps(value)}" for key, value in members)
    body = (f'[0,{{"y":{{{text}}}}}]' if is_nested else f"{{{text}}}").encode()
    is_repeated = len({key for key, _ in members}) < len(members)
    if not is_repeated:
        assert read_json(body)[1] == json.loads(body)
        return
    with pytest.raises(JsonBodyError) as refused:
        read_json(body)
    assert refused.value.key in {key for key, _ in members}
