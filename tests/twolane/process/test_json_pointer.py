"""JSON pointers follow RFC 6901, also where `int` accepts more."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twolane.process.exact_json import pointer_step, pointer_tokens

DOCUMENT = {"foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "m~n": 8, "01": 3}


@pytest.mark.parametrize(
    ("pointer", "value"),
    [
        ("", DOCUMENT),
        ("/foo/0", "bar"),
        ("/foo/1", "baz"),
        ("/", 0),
        ("/a~1b", 1),
        ("/c%d", 2),
        ("/m~0n", 8),
        ("/01", 3),
    ],
)
def test_the_examples_of_the_rfc(pointer: str, value: Any) -> None:
    found: Any = DOCUMENT
    for token in pointer_tokens(pointer):
        found = pointer_step(found, token)
    assert found == value


@given(
    st.text(max_size=4)
    | st.sampled_from(["-1", "-0", "+1", "01", "00", "1_0", " 1", "1\n", "\u0661", "", "-", "9" * 99])
)
def test_an_index_is_written_in_one_way(token: str) -> None:
    items = list(range(12))
    try:
        found = pointer_step(items, token)
    except KeyError:
        assert token not in map(str, items)
    else:
        assert str(found) == token


@pytest.mark.parametrize("value", ["text", 1, None, True])
def test_nothing_is_inside_a_scalar(value: Any) -> None:
    with pytest.raises(KeyError):
        pointer_step(value, "0")
