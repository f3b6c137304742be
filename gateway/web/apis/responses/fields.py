"""Reads the fields of items and tools as types."""

from typing import Any, TypeVar

import msgspec

from gateway.web.parse_request import invalid_field

_T = TypeVar("_T")


def converted(given: Any, kind: type[_T], at: str) -> _T:
    """The value of the field `at`, as this type. Raises InvalidField."""
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as fault:
        raise invalid_field(str(fault), at) from None
