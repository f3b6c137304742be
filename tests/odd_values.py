"""JSON documents of which one value has another type."""

from collections.abc import Iterator
from typing import Any

ODD: tuple[Any, ...] = (None, True, 7, -1, 0.5, "x", [5], [{}], {"a": 1})


def variants(document: Any) -> Iterator[Any]:
    """The document with each of its values replaced by each odd one."""
    yield from ODD
    names = range(len(document)) if isinstance(document, list) else document if isinstance(document, dict) else ()
    for name in names:
        for odd in variants(document[name]):
            changed = document.copy()
            changed[name] = odd
            yield changed
