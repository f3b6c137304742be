"""Reads an untrusted JSON text. Encoding, depth and number of values are checked before a parser builds anything of it.

Parsers differ in what they make of a repeated key, so a gateway that reads one value while the server behind it reads
the other can be made to take a decision on the wrong one. Repeated keys are therefore refused (as RFC 7493 asks).
"""

import json
from collections.abc import Iterable
from typing import Any, Final

import numpy as np

from twolane.process import exact_json

MAX_DEPTH: Final = 64  # of arrays and objects
MAX_VALUES: Final = 100_000  # a small array or object takes a hundred bytes of memory, and three of text
_BOM: Final = b"\xef\xbb\xbf"
_UTF_16: Final = (b"\xff\xfe", b"\xfe\xff")
_NOT_STRUCTURE: Final = bytes(set(range(256)) - set(b'[]{},"'))
_QUOTE: Final = 2
_TO_CHANGES: Final = bytes.maketrans(b'[{]},"', b"\x01\x01\xff\xff\x00\x02")  # of the depth, as signed bytes; quotes


class JsonBodyError(ValueError):
    """The text is refused; the message is a sentence. `key` is the repeated key, if that is the reason."""

    def __init__(self, message: str, *, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


def read_json(body: bytes, *, max_values: int = MAX_VALUES) -> tuple[bytes, Any]:
    """The text without a byte order mark, and the document that it is (see `exact_json`). Raises JsonBodyError for what
    is refused here, and for what is not JSON."""
    body = body.removeprefix(_BOM)
    if body.startswith(_UTF_16) or b"\0" in body[:4]:
        raise JsonBodyError("The request body must be encoded as UTF-8, not as UTF-16 or UTF-32.")
    brackets = body.count(b"{") + body.count(b"[")
    if brackets > MAX_DEPTH or brackets + body.count(b",") > max_values:  # the cheap upper bounds are inconclusive
        _check_shape(body, max_values)
    try:
        document = exact_json.loads(body)
    except exact_json.JsonError as fault:
        _check_keys(body)
        raise JsonBodyError(f"The request body is not valid JSON: {fault}.") from None
    if not _has_unique_keys(body, document):
        _check_keys(body)  # which names the key
    return body, document


def shape_of(text: bytes) -> tuple[int, int]:
    """The nesting depth of a JSON text, and an upper bound of its number of values. One pass, without recursion; exact
    for valid JSON."""
    unescaped = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    structure = np.frombuffer(unescaped.translate(_TO_CHANGES, _NOT_STRUCTURE), np.int8)
    is_quote = structure == _QUOTE
    is_within_string = np.cumsum(is_quote, dtype=np.uint8) & 1  # overflow keeps the parity
    changes = structure[(is_within_string | is_quote) == 0]
    depth = int(np.cumsum(changes, dtype=np.int16).max(initial=0))  # overflow occurs far beyond any limit
    return depth, len(changes) - int(np.count_nonzero(changes < 0)) + 1


def _check_shape(body: bytes, max_values: int) -> None:
    depth, values = shape_of(body)
    if depth > MAX_DEPTH:
        raise JsonBodyError(f"The request body is nested deeper than {MAX_DEPTH} levels.")
    if values > max_values:
        raise JsonBodyError(f"The request body has more than {max_values} values.")


def _has_unique_keys(body: bytes, document: Any) -> bool:
    """Whether no object of a JSON text repeats a key: the text then has as many keys as the document that was made of
    it. Its keys are the colons that stand in no string, and without escaped quotes, every second part between two
    quotes is no string."""
    text = body.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in body else body
    return b"".join(text.split(b'"')[::2]).count(b":") == _count_keys(document)


def _count_keys(document: Any) -> int:
    count, found = 0, [document]
    for value in found:  # which grows meanwhile
        kind = type(value)
        if kind is dict:
            count += len(value)
            found += value.values()
        elif kind is list:
            found += value
    return count


def _check_keys(body: bytes) -> None:
    """Raises JsonBodyError for a repeated key, and for what is not JSON. Takes many times as long as a parser."""
    try:
        _DECODER.decode(body.decode())
    except UnicodeDecodeError as fault:
        raise JsonBodyError(f"The request body is not valid UTF-8 at byte {fault.start}.") from None
    except json.JSONDecodeError as fault:
        raise JsonBodyError(f"The request body is not valid JSON: {fault}.") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        key = _first_repeated(name for name, _ in pairs)
        raise JsonBodyError(f"The key {key!r} occurs more than once in an object.", key=key)
    return found


def _first_repeated(names: Iterable[str]) -> str:
    """In linear time: an object may have MAX_VALUES members."""
    seen = set[str]()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    raise AssertionError("no name is repeated")


# Numbers stay text: converting one of many thousand digits takes long, and nobody reads them here.
_DECODER: Final = json.JSONDecoder(object_pairs_hook=_object, parse_int=str, parse_float=str)
