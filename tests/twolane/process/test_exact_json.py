"""JSON is read and written with integers of any size."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twolane.process import exact_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(-(10**60), 10**60) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.mark.slow
@given(VALUES)
def test_what_was_read_is_written_back_byte_for_byte(value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="surrogatepass")
    assert exact_json.loads(text) == value
    assert json.loads(exact_json.dumps(exact_json.loads(text))) == value


@pytest.mark.parametrize("digits", [18, 19, 20, 309, exact_json.MAX_DIGITS])
def test_every_digit_is_kept(digits: int) -> None:
    number = b"-" + b"1234567890" * (digits // 10) + b"9" * (digits % 10)
    assert exact_json.dumps(exact_json.loads(b'{"n":' + number + b"}")) == b'{"n":' + number + b"}"


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[1,]", b"NaN", b"1e999", b"9" * (exact_json.MAX_DIGITS + 2), b'"\xff"', rb'"\ud800"', b"[" * 100_000],
)
def test_what_is_not_json_is_an_error(text: bytes) -> None:
    with pytest.raises(exact_json.JsonError):
        exact_json.loads(text)


def test_an_error_names_the_byte_if_it_is_known() -> None:
    with pytest.raises(exact_json.JsonError) as found:
        exact_json.loads(b'{"a": x}')
    assert found.value.byte == 6


def test_members_can_be_sorted() -> None:
    assert exact_json.dumps({"b": 2**70, "a": 1}, sort_keys=True) == b'{"a":1,"b":1180591620717411303424}'


def test_a_lone_surrogate_cannot_be_written() -> None:
    with pytest.raises(exact_json.JsonError):
        exact_json.dumps({"a": "\ud800"})
