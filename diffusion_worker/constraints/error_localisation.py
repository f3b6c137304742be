"""Error localisation: the span of the value in a JSON text that a jsonschema violation names."""

import json
from collections.abc import Iterator

from jsonschema import ValidationError

Span = tuple[int, int]  # of characters
JsonPath = tuple[str | int, ...]


def span_of(text: str, violation: str) -> Span | None:
    """The span of the value that a violation (`$.a[0]: is too long`) names; None if it names none or the text is not
    JSON. The innermost match, because member names may look like paths themselves."""
    try:
        named = [(start, end) for path, start, end in values(text) if violation.startswith(_json_path(path) + ": ")]
    except (ValueError, IndexError, RecursionError):
        return None
    return min(named, key=lambda span: span[1] - span[0], default=None)


def values(text: str) -> Iterator[tuple[JsonPath, int, int]]:
    """Every value of a JSON text as (path, start, end), inner values first. Raises ValueError or IndexError for other
    texts."""
    found: list[tuple[JsonPath, int, int]] = []
    _scan(text, _skip_space(text, 0), (), found)
    return iter(found)


def _scan(text: str, start: int, path: JsonPath, found: list[tuple[JsonPath, int, int]]) -> int:
    """Collect the value that starts here and the values in it; returns its end."""
    if text[start] not in "[{":
        _, end = json.JSONDecoder().raw_decode(text, start)
    else:
        end = _scan_members(text, start, path, found)
    found.append((path, start, end))
    return end


def _scan_members(text: str, start: int, path: JsonPath, found: list[tuple[JsonPath, int, int]]) -> int:
    closing = "]" if text[start] == "[" else "}"
    at, count = _skip_space(text, start + 1), 0
    while text[at] != closing:
        key: str | int = count
        if closing == "}":
            key, at = json.JSONDecoder().raw_decode(text, at)
            at = _skip_space(text, _skip_space(text, at) + 1)  # the colon
        at = _skip_space(text, _scan(text, at, (*path, key), found))
        count += 1
        if text[at] == ",":
            at = _skip_space(text, at + 1)
    return at + 1


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\n\r":
        at += 1
    return at


def _json_path(path: JsonPath) -> str:
    return str(ValidationError("", path=path).json_path)
