"""web.fields: typed access that names the full path."""

import pytest

from diffusion_worker.web.error_body import InvalidType, InvalidValue, MissingField, Unsupported
from diffusion_worker.web.requests.fields import Fields

OUTER = Fields({"inner": {"flag": True, "count": 3, "list": [{"x": 1}, 5]}, "none": None})


def test_paths_grow_inwards() -> None:
    """An error deep inside names the way to it."""
    inner = OUTER.object("inner")
    assert inner is not None
    with pytest.raises(InvalidType) as caught:
        inner.objects("list")
    assert caught.value.param == "inner.list[1]"
    assert caught.value.message == "'inner.list[1]' must be an object, not an integer."


@pytest.mark.parametrize("read", ["text", "boolean", "raw", "object"])
def test_null_and_absence_read_as_none(read: str) -> None:
    """Both mean: not given."""
    assert getattr(OUTER, read)("none") is None
    assert getattr(OUTER, read)("absent") is None


def test_booleans_are_no_numbers() -> None:
    """Python's are, JSON's are not."""
    with pytest.raises(InvalidType, match="an integer, not a boolean"):
        Fields({"n": True}).integer("n", 0, 5)
    with pytest.raises(InvalidType, match="a number, not a boolean"):
        Fields({"n": False}).number("n", 0, 5)


def test_a_whole_number_may_be_read_as_a_number_but_not_the_reverse() -> None:
    """3 is a number, 3.0 is no count."""
    assert Fields({"n": 3}).number("n", 0, 5) == 3.0
    with pytest.raises(InvalidType):
        Fields({"n": 3.0}).integer("n", 0, 5)


def test_bounds_are_part_of_the_message() -> None:
    """So that the next attempt can be right."""
    with pytest.raises(InvalidValue, match="between 0 and 5, not 6"):
        Fields({"n": 6}).integer("n", 0, 5)


def test_required_and_only_speak_of_absence_and_strangers() -> None:
    """Missing and unknown fields."""
    with pytest.raises(MissingField):
        OUTER.required("none")
    with pytest.raises(Unsupported, match="Unrecognized field: 'none'"):
        OUTER.allow_only(("inner",))
