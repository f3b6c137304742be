"""JSON in and out with integers of any size: what was read is written back with the same digits.

JSON pointers (RFC 6901) are read as they are written there: `int` also reads `-1`, `01` and digits of other scripts.

orjson reads integers beyond 64 bits as floats, which changes identifiers and hashes. msgspec reads them exactly.
"""

import re
from typing import Any, Final

import msgspec

MAX_DIGITS: Final = 4299  # of one integer: Python's limit, with a sign, against quadratic conversion time


_INDEX: Final = re.compile("0|[1-9][0-9]*")
_BYTE: Final = re.compile(r"\(byte (\d+)\)")


class JsonError(ValueError):
    """The text is not JSON, or has an integer of more than MAX_DIGITS digits, or a float that is out of range.

    `byte` is where, from 0, if it is known.
    """

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        found = _BYTE.search(cause)
        self.byte = int(found[1]) if found else None


def loads(data: bytes | str) -> Any:
    """Parse JSON (RFC 8259). Integers of up to MAX_DIGITS digits are exact. Raises JsonError."""
    try:
        return msgspec.json.decode(data)
    except msgspec.DecodeError as fault:
        raise JsonError(str(fault)) from None
    except UnicodeError:
        raise JsonError("invalid UTF-8") from None
    except RecursionError:
        raise JsonError("nested too deeply") from None


def dumps(value: Any, *, sort_keys: bool = False) -> bytes:
    """Serialise to compact JSON, members in the given order or sorted. Raises JsonError for a lone surrogate."""
    try:
        return msgspec.json.encode(value, order="sorted" if sort_keys else None)
    except (UnicodeError, msgspec.EncodeError, TypeError) as fault:
        raise JsonError(str(fault)) from None
    except RecursionError:
        raise JsonError("nested too deeply") from None


def pointer_tokens(pointer: str) -> list[str]:
    """The unescaped reference tokens of a pointer, which is empty or begins with `/`."""
    return [token.replace("~1", "/").replace("~0", "~") for token in pointer.split("/")[1:]]


def pointer_step(value: Any, token: str) -> Any:
    """The member or item of a value that an unescaped token names. Raises KeyError if there is none: an index of an
    array is written in ASCII digits, without a sign and without leading zeros (RFC 6901, section 4)."""
    if isinstance(value, list) and _INDEX.fullmatch(token) and len(token) < 10 and int(token) < len(value):
        return value[int(token)]
    if isinstance(value, dict) and token in value:
        return value[token]
    raise KeyError(token)
