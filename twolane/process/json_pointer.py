"""JSON pointers (RFC 6901): the reference tokens of a pointer, and the value that a token leads to."""

import re
from typing import Any, Final

_INDEX: Final = re.compile("0|[1-9][0-9]*")


def tokens_of(pointer: str) -> list[str]:
    """The unescaped reference tokens of a pointer, which is empty or begins with `/`."""
    return [token.replace("~1", "/").replace("~0", "~") for token in pointer.split("/")[1:]]


def step(value: Any, token: str) -> Any:
    """The member or item of a value that an unescaped token names. Raises KeyError if there is none: an index of an
    array is written in ASCII digits, without a sign and without leading zeros (RFC 6901, section 4)."""
    if isinstance(value, list) and _INDEX.fullmatch(token) and len(token) < 10 and int(token) < len(value):
        return value[int(token)]
    if isinstance(value, dict) and token in value:
        return value[token]
    raise KeyError(token)
