"""Incremental parser of server-sent events. Handles the framing, not the content.

Follows the event stream interpretation of the HTML standard (https://html.spec.whatwg.org/multipage/server-sent-events.html).
"""

from typing import Final, NamedTuple

MAX_EVENT_BYTES: Final = 4 * 1024 * 1024
MAX_EVENT_LINES: Final = 1 << 15  # each takes far more time than its bytes


class EventTooLarge(Exception):  # noqa: N818 - says what happened
    """No event ends within `MAX_EVENT_BYTES`, or it has more than `MAX_EVENT_LINES`."""


class Event(NamedTuple):
    """One event with data, which is JSON: its lines are joined with blanks. `name` is the value of the last `event:`
    line; empty if there is none."""

    name: bytes
    data: bytes


class EventReader:
    """Feed it bytes without a byte order mark; it returns the complete events that carry data. Lines end with LF, CR
    or CRLF."""

    __slots__ = ("_ends_line", "_parts", "_size", "_skips_lf")

    def __init__(self) -> None:
        self._parts: list[bytes] = []  # of the incomplete event; joined once, when it is complete
        self._size = 0
        self._ends_line = False  # the last part ends with a line
        self._skips_lf = False  # the last byte was CR, so an LF that follows belongs to it

    @property
    def has_begun(self) -> bool:
        """Whether the next byte belongs to an event, or to a line end, that has begun."""
        return bool(self._parts or self._skips_lf)

    def feed(self, data: bytes) -> list[Event]:
        """The events that end in `data`, in order. Raises EventTooLarge."""
        is_line = data.startswith(b"data: ") and data.find(b"\n") == len(data) - 2 and b"\r" not in data
        if is_line and data.endswith(b"\n") and len(data) > len(b"data: \n\n") and not self.has_begun:
            return [Event(b"", data[6:-2])]  # as servers commonly write it, alone
        if self._skips_lf and data:
            data = data.removeprefix(b"\n")
            self._skips_lf = False
        if b"\r" in data:
            self._skips_lf = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if not data:
            return []
        if b"\n\n" not in data and not (self._ends_line and data.startswith(b"\n")):
            self._keep(data)
            return []
        *texts, remainder = b"".join((*self._parts, data)).split(b"\n\n")
        self._parts, self._size, self._ends_line = [], 0, False
        if remainder:
            self._keep(remainder)
        return [event for text in texts if text and (event := _event_of(text)).data]

    def close(self) -> list[Event]:
        """The last event, if the stream ended without the blank line that ends an event."""
        event = _event_of(b"".join(self._parts))
        self._parts = []
        return [event] if event.data else []

    def _keep(self, data: bytes) -> None:
        if not data:
            return
        self._parts.append(data)
        self._size += len(data)
        self._ends_line = data.endswith(b"\n")
        if self._size > MAX_EVENT_BYTES:
            raise EventTooLarge


def _event_of(text: bytes) -> Event:
    """Fast path for the common single `data: ...` line; other events are parsed line by line. Comments and unknown
    fields are skipped."""
    if text.startswith(b"data: ") and b"\n" not in text:
        return Event(b"", text[6:])
    if text.count(b"\n") >= MAX_EVENT_LINES:
        raise EventTooLarge
    name, data = b"", []
    for line in text.split(b"\n"):
        field, _, value = line.partition(b":")
        if field == b"data":
            data.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.removeprefix(b" ")
    # A line end inside JSON is white space, and the data is forwarded as one line.
    return Event(name, b" ".join(data))
