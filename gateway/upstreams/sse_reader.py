"""Server-sent events from raw bytes, by lines. Knows framing only; what an event says is read elsewhere."""

from typing import Final

MAX_EVENT_BYTES: Final = 4 * 1024 * 1024


class EventTooLarge(Exception):  # noqa: N818 - says what happened
    """No event ends within `MAX_EVENT_BYTES`."""


class EventReader:
    """Feed bytes as they come; get back the `data` of every event that is complete. What follows the last is kept."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The data of the events that end in `data`, in order; comments and empty events are dropped."""
        whole = self._rest + data if self._rest else data
        if b"\r" in whole:
            whole = whole.replace(b"\r\n", b"\n")
        *events, self._rest = whole.split(b"\n\n")
        if len(self._rest) > MAX_EVENT_BYTES:
            raise EventTooLarge
        return [found for text in events if (found := _data_of(text))]


def _data_of(event: bytes) -> bytes:
    """The usual event is one `data: ...` line; others are read line by line as the standard says."""
    if event.startswith(b"data: ") and b"\n" not in event:
        return event[6:]
    lines = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines)
