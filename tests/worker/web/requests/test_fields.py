"""Typed field access: errors contain the full path."""

import pytest

from diffusion_worker.web.error_body import InvalidType, InvalidValue, MissingField, Unsupported
from diffusion_worker.web.requests.fields import Fields

OUTER = Fields({"inner": {"flag": True, "count": 3, "list": [{"x": 1}, 5]}, "none": None})


def test_errors_contain_the_path_of_nested_fields() -> None:
    inner = OUTER.object("inner")
    assert inner is not None
    with pytest.raises(InvalidType) as caught:
        inner.objects("list")
    assert caught.value.param == "inner.list[1]"
    assert caught.value.message == "'inner.list[1]' must be an object, not an integer."


@pytest.mark.parametrize("read", ["text", "boolean", "raw", "object"])
def test_null_and_absent_fields_are_none(read: str) -> None:
    assert getattr(OUTER, read)("none") is None
    assert getattr(OUTER, read)("absent") is None


def test_booleans_are_not_numbers() -> None:
    """They are in Python, but not in JSON."""
    with pytest.raises(InvalidType, match="an integer, not a boolean"):
        Fields({"n": True}).integer("n", 0, 5)
    with pytest.raises(InvalidType, match="a number, not a boolean"):
        Fields({"n": False}).number("n", 0, 5)


def test_an_integer_is_a_number_but_a_float_is_not_an_integer() -> None:
    """3 is a number, 3.0 is no count."""
    assert Fields({"n": 3}).number("n", 0, 5) == 3.0
    with pytest.raises(InvalidType):
        Fields({"n": 3.0}).integer("n", 0, 5)


def test_the_error_message_contains_the_bounds() -> None:
    with pytest.raises(InvalidValue, match="between 0 and 5, not 6"):
        Fields({"n": 6}).integer("n", 0, 5)


def test_missing_and_unknown_fields_are_refused() -> None:
    with pytest.raises(MissingField):
        OUTER.required("none")
    with pytest.raises(Unsupported, match="Unrecognized field: 'none'"):
        OUTER.allow_only(("inner",))
