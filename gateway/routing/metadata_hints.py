"""Hints to the gateway in a request's `metadata`, which applications also use for themselves.

`task` with the name of a known task, and `private` with a yes or no, are hints; any other value of theirs is the
application's own. `twolane_task`, `twolane_private` and `twolane_locations` are always hints.
"""

from collections.abc import Mapping
from typing import Any, Final

from gateway.enums import Task

TASK: Final = "twolane_task"
PRIVATE: Final = "twolane_private"
LOCATIONS: Final = "twolane_locations"
_WORDS: Final = {"true": True, "1": True, "yes": True, "on": True} | dict.fromkeys(
    ("false", "0", "no", "off", ""), False
)
_TASKS: Final = frozenset(Task)


def task_of(value: Any) -> Task | None:
    """The task with this name; None if there is none."""
    return Task(value) if isinstance(value, str) and value in _TASKS else None


def boolean_of(value: Any) -> bool | None:
    """A boolean, or the meaning of a word for yes or no; None for any other value."""
    if isinstance(value, bool):
        return value
    return _WORDS.get(str(value).strip().lower()) if isinstance(value, str | int) else None


def without_hints(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The application's own metadata, which targets receive."""
    return {name: value for name, value in metadata.items() if not _is_hint(name.lower(), value)}


def _is_hint(name: str, value: Any) -> bool:
    """Names are compared in lower case, as where `private` is read."""
    if name == "task":
        return task_of(value) is not None
    return name in (TASK, PRIVATE, LOCATIONS) or (name == "private" and boolean_of(value) is not None)
