"""Reads the body of one response as OpenAI's clients do, and returns it as Deltas in the form that was requested.

The content decides whether a body is a stream of events or one JSON document: content types are often missing or wrong.
No I/O: the caller feeds bytes.
"""

from typing import Final

from gateway.enums import TargetApi
from gateway.errors import UpstreamError
from gateway.types import Delta
from gateway.upstreams.answers import lenient, reframe
from gateway.upstreams.answers.apis import FORMS, ReadEvent
from gateway.upstreams.answers.lenient import CallIndexes
from gateway.upstreams.parse_response import error_of, read_delta
from gateway.upstreams.sse_reader import Event, EventReader, EventTooLarge

_BOM: Final = b"\xef\xbb\xbf"
_FIELDS: Final = (b"data:", b"event:", b"id:", b"retry:", b":")
_DONE: Final = b"[DONE]"


class AnswerReader:
    """Feed it a body, then close it. `stream`: whether the request asked for a stream. `api`: what the body answers.

    `is_done`: the end of the stream was read, and nothing that follows matters. `is_finished`: every choice so far has
    a finish reason, so the answer is complete even if the stream breaks off.
    """

    def __init__(self, *, stream: bool, max_bytes: int, api: TargetApi = TargetApi.CHAT) -> None:
        self.is_done = False
        self._read_whole, self._read_event = FORMS[api]
        self._stream = stream
        self._max_bytes = max_bytes
        self._head = b""  # what was read before the form of the body is known
        self._events: EventReader | None = None
        self._document: list[bytes] | None = None  # of a whole response, or of the chunks to be merged
        self._size = 0
        self._calls = CallIndexes()
        self._open: set[int] = set()
        self._finished: set[int] = set()

    @property
    def is_finished(self) -> bool:
        """See the class."""
        return bool(self._finished) and not self._open

    def feed(self, data: bytes) -> list[Delta]:
        """The deltas that end in `data`. Raises AttemptFailed."""
        if self._events is not None:
            return self._read(self._events, data)
        if self._document is not None:
            self._keep(data)
            return []
        self._size += len(data)
        if self._size > self._max_bytes:
            raise UpstreamError("The target's response is too large.", detail="answer too large")
        return self._start(self._head + data)

    def close(self) -> list[Delta]:
        """The deltas that the end of the body completes. Raises AttemptFailed for a truncated response."""
        if self._events is None:
            return self._whole(self._head if self._document is None else b"".join(self._document))
        deltas = [] if self.is_done else self._deltas(self._events.close())
        if not self.is_done and not self.is_finished:
            raise UpstreamError(
                "The target closed the connection before the response was complete.", detail="stream cut short"
            )
        return deltas if self._document is None else self._whole(reframe.as_whole(self._document))

    def _start(self, data: bytes) -> list[Delta]:
        """Decide the form of the body as soon as its first characters are known."""
        self._head = head = data.removeprefix(_BOM).lstrip()
        if not head or _BOM.startswith(head) or any(field.startswith(head) for field in _FIELDS):
            return []
        if not head.startswith((b"{", b"[")) and (self._stream or head.startswith(_FIELDS)):
            self._events = EventReader()
            self._document = None if self._stream else []
            return self._read(self._events, head)
        self._document = [head]
        return []

    def _read(self, events: EventReader, data: bytes) -> list[Delta]:
        try:
            return self._deltas(events.feed(data))
        except EventTooLarge as fault:
            raise UpstreamError("The target's response is too large.", detail="event too large") from fault

    def _deltas(self, events: list[Event]) -> list[Delta]:
        deltas: list[Delta] = []
        for event in events:
            if event.name or not event.data.startswith(b"{"):
                if event.data.lstrip().startswith(_DONE):
                    self.is_done = True
                    break
                delta = _delta_of(event, self._calls, self._read_event)
            else:
                delta = self._read_event(event.data, self._calls)
            if delta is not None:
                self._observe(delta)
                deltas.append(delta)
        if self._document is None:
            return deltas
        for delta in deltas:
            self._keep(delta.data)
        return []

    def _observe(self, delta: Delta) -> None:
        for piece in delta.pieces:
            if piece.finish_reason is not None:
                self._finished.add(piece.index)
                self._open.discard(piece.index)
            elif piece.index not in self._finished:
                self._open.add(piece.index)

    def _whole(self, document: bytes) -> list[Delta]:
        """The one delta of a whole response, or its chunks if a stream was requested."""
        delta = self._read_whole(document)
        return [read_delta(chunk) for chunk in reframe.as_chunks(delta.data)] if self._stream else [delta]

    def _keep(self, data: bytes) -> None:
        assert self._document is not None
        self._document.append(data)
        self._size += len(data)
        if self._size > self._max_bytes:
            raise UpstreamError("The target's response is too large.", detail="answer too large")


def _delta_of(event: Event, calls: CallIndexes, read_event: ReadEvent) -> Delta | None:
    """None for an event that adds nothing. Only events without a name, or named `message`, must be JSON: others may be
    pings."""
    if event.name == b"error":
        raise error_of(event.data)
    is_ping = event.name not in (b"", b"message") and not lenient.is_json(event.data)
    return None if is_ping else read_event(event.data, calls)
