"""Incremental parser of server-sent events. Handles the framing, not the content."""

from typing import Final

MAX_EVENT_BYTES: Final = 4 * 1024 * 1024


class EventTooLarge(Exception):  # noqa: N818 - says what happened
    """No event ends within `MAX_EVENT_BYTES`."""


class EventReader:
    """Feed it bytes; it returns the `data` of every complete event and keeps the incomplete rest."""

    __slots__ = ("_remainder",)

    def __init__(self) -> None:
        self._remainder = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The data of the events that end in `data`, in order; comments and empty events are skipped."""
        buffered = self._remainder + data if self._remainder else data
        if b"\r" in buffered:
            buffered = buffered.replace(b"\r\n", b"\n")
        *events, self._remainder = buffered.split(b"\n\n")
        if len(self._remainder) > MAX_EVENT_BYTES:
            raise EventTooLarge
        return [found for text in events if (found := _data_of(text))]


def _data_of(event: bytes) -> bytes:
    """Fast path for the common single `data: ...` line; other events are parsed line by line per the standard."""
    if event.startswith(b"data: ") and b"\n" not in event:
        return event[6:]
    lines = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines)
