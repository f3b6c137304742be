"""Records that are made for every request: frozen by the type checker alone.

Setting a field of a frozen dataclass in its constructor costs three times as much as setting one of a plain class, and
such records have up to thirty fields.
"""

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

_Record = TypeVar("_Record")


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field,))
def record(cls: type[_Record]) -> type[_Record]:
    """A dataclass with keyword arguments and slots, equal and hashed by its fields. Do not assign to them."""
    return dataclass(slots=True, kw_only=True, unsafe_hash=True)(cls)
