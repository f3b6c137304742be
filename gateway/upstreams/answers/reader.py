"""Reads the body of one response as OpenAI's clients do, and returns it as Deltas in the form that was requested.

The content decides whether a body is a stream of events or one JSON document: content types are often missing or wrong.
No I/O: the caller feeds bytes.
"""

from collections.abc import Collection
from typing import Final

from gateway.enums import TargetApi
from gateway.errors import UpstreamError
from gateway.parameters import MAX_N
from gateway.types import Delta, Piece
from gateway.upstreams.answers import lenient, reframe
from gateway.upstreams.answers.apis import FORMS, ReadEvent
from gateway.upstreams.answers.lenient import ChunkState
from gateway.upstreams.answers.reframe import ChunkMerger
from gateway.upstreams.answers.sse_reader import MAX_EVENT_BYTES, Event, EventReader, EventTooLarge
from gateway.upstreams.parse_response import error_of, read_delta, read_text_answer
from twolane.process.http.compiled import read_text_event

MAX_CALLS: Final = 1024  # of all choices
MAX_NAME_CHARS: Final = 1 << 18  # of the names of all calls, which are complete only at the end
_BOM: Final = b"\xef\xbb\xbf"
_FIELDS: Final = (b"data:", b"event:", b"id:", b"retry:", b":")
_LONGEST: Final = max(map(len, _FIELDS))
_DOCUMENT: Final = (b"{", b"[")
_DONE: Final = b"[DONE]"
_CHAT: Final = TargetApi.CHAT
# What parsers raise, for example for a number of more digits than Python converts.
_FAULTS: Final = (EventTooLarge, ValueError, TypeError, LookupError, AttributeError, RecursionError)


class AnswerReader:
    """Feed it a body, then close it. `stream`: whether the request asked for a stream. `api`: what the body answers.

    `is_done`: the end of the stream was read, and nothing that follows matters. `is_finished`: every choice so far has
    a finish reason, so the answer is complete even if the stream breaks off. `text_choices`: events that add text to
    one of these, alone in a read, need not be fed, but set `idle_size` to 0.

    A stream that becomes a whole response is reported as it arrives by Deltas without `data`.
    """

    def __init__(self, *, stream: bool, max_bytes: int, api: TargetApi = TargetApi.CHAT) -> None:
        self.is_done = self.is_finished = False
        self._read_whole, self._read_event = FORMS[api]
        self._reads_chats = api is _CHAT
        self._stream = stream
        self._max_bytes = max_bytes
        self._head = b""  # what was read before the form of the body is known
        self._events: EventReader | None = None
        self._document: list[bytes] | None = None  # of a whole response
        self._merger: ChunkMerger | None = None  # of the chunks of a stream, if a whole response was requested
        self._size = 0  # of what is kept
        self.idle_size = 0  # read since the last event that brought something
        self._state: ChunkState  # of a stream
        self._limits: _Limits | None = None  # of a response with tool calls
        self._open: set[int] = set()
        self._finished: set[int] = set()
        self.text_choices: Collection[int] = ()

    @property
    def keeps_all(self) -> bool:
        """Whether what was fed stays in memory until `close`: the body is a whole response, or becomes one."""
        return not self._stream or self._document is not None

    def feed(self, data: bytes) -> list[Delta]:
        """The deltas that end in `data`. Raises AttemptFailed."""
        try:
            if self._events is None:
                return self._begin(data)
            if self._reads_chats and self._merger is None and not (self.is_finished or self._events.has_begun):
                found = read_text_event(data)
                if found is not None:
                    return self._add_text(*found)
            return self._read(self._events, data)
        except _FAULTS as fault:
            raise _unreadable(fault) from fault

    def close(self) -> list[Delta]:
        """The deltas that the end of the body completes. Raises AttemptFailed for a truncated response."""
        try:
            return self._end()
        except _FAULTS as fault:
            raise _unreadable(fault) from fault

    def _begin(self, data: bytes) -> list[Delta]:
        self._keep(len(data))
        if self._document is None:
            return self._start(self._head + data)
        self._document.append(data)
        return []

    def _end(self) -> list[Delta]:
        if self._events is None:
            return self._whole(self._head if self._document is None else b"".join(self._document))
        deltas = [] if self.is_done else self._deltas(self._events.close())
        if not self.is_done and not self.is_finished:
            raise UpstreamError(
                "The target closed the connection before the response was complete.", detail="stream cut short"
            )
        return deltas if self._merger is None else [read_delta(self._merger.whole())]

    def _start(self, data: bytes) -> list[Delta]:
        """Decide the form of the body as soon as its first characters are known."""
        self._head = head = data.removeprefix(_BOM).lstrip()
        if head.startswith(_DOCUMENT):
            self._document = [head]
            return []
        if len(head) <= _LONGEST and (_BOM.startswith(head) or any(field.startswith(head) for field in _FIELDS)):
            return []
        if self._stream or head.startswith(_FIELDS):
            self._events, self._state = EventReader(), ChunkState()
            self._merger = None if self._stream else ChunkMerger()
            return self._read(self._events, head)
        self._document = [head]
        return []

    def _read(self, events: EventReader, data: bytes) -> list[Delta]:
        deltas = self._deltas(events.feed(data))
        is_between = self._reads_chats and not (self.is_finished or events.has_begun)
        self.text_choices = self._open if is_between else ()
        if deltas:
            self.idle_size = 0
        else:
            self._count_idle(len(data))
        return deltas

    def _add_text(self, event: bytes, index: int, text: str) -> list[Delta]:
        """What `_read` returns for one event in its most common form, alone in a read."""
        delta = Delta(data=event, pieces=(Piece(index=index, text=text, is_answer=True),))
        self.idle_size = 0
        if index not in self._open:
            self._observe(delta)
        return [delta]

    def _count_idle(self, size: int) -> None:
        """A read brought nothing. Raises UpstreamError for too many of them."""
        self.idle_size += size
        if self.idle_size > MAX_EVENT_BYTES:
            raise UpstreamError("The target's response is too large.", detail="too much without content")

    def _deltas(self, events: list[Event]) -> list[Delta]:
        deltas: list[Delta] = []
        for event in events:
            try:
                if event.name or not event.data.startswith(b"{"):
                    if event.data.lstrip().startswith(_DONE):
                        self.is_done = True
                        break
                    delta = _delta_of(event, self._state, self._read_event)
                else:
                    delta = self._read_event(event.data, self._state)
            except (UpstreamError, *_FAULTS):
                if not self.is_finished or event.name == b"error" or lenient.is_json(event.data):
                    raise
                self.is_done = True  # an odd spelling of `[DONE]`, or half an event: the answer is complete
                break
            if delta is not None:
                self._observe(delta)
                deltas.append(delta)
        return deltas if self._merger is None else [self._merged(self._merger, delta) for delta in deltas]

    def _merged(self, merger: ChunkMerger, delta: Delta) -> Delta:
        self._keep(len(delta.data))
        merger.add(delta.data)
        return Delta(data=b"", pieces=delta.pieces)

    def _observe(self, delta: Delta) -> None:
        pieces = delta.pieces
        if len(pieces) == 1 and pieces[0].index in self._open and not (pieces[0].finish_reason or pieces[0].tool_calls):
            return
        for piece in delta.pieces:
            if piece.finish_reason is not None:
                self._finished.add(piece.index)
                self._open.discard(piece.index)
            elif piece.index not in self._finished:
                self._open.add(piece.index)
            if piece.tool_calls:
                self._limits = self._limits or _Limits()
                self._limits.count_calls(piece)
        self.is_finished = not self._open and bool(self._finished)
        if len(self._open) + len(self._finished) > MAX_N:
            raise _too_many(f"more than {MAX_N} choices")

    def _whole(self, document: bytes) -> list[Delta]:
        """The one delta of a whole response, or its chunks if a stream was requested."""
        delta = self._read_whole(document)
        self._observe(delta)
        if not self._stream:
            return [delta]
        return [read_delta(chunk, is_chunk=True) for chunk in reframe.as_chunks(delta.data)]

    def _keep(self, size: int) -> None:
        self._size += size
        if self._size > self._max_bytes:
            raise UpstreamError("The target's response is too large.", detail="answer too large")


def read_document(data: bytes, api: TargetApi) -> Delta:
    """The delta of a whole response that was requested as such, without an AnswerReader. Raises AttemptFailed."""
    if api is _CHAT and (common := read_text_answer(data)) is not None:
        return common
    try:
        delta = FORMS[api][0](data)
    except _FAULTS as fault:
        raise _unreadable(fault) from fault
    if len(delta.pieces) > MAX_N:
        raise _too_many(f"more than {MAX_N} choices")
    limits: _Limits | None = None
    for piece in delta.pieces:
        if piece.tool_calls:
            limits = limits or _Limits()
            limits.count_calls(piece)
    return delta


class _Limits:
    """Counts the calls of a response: what is kept for each of them takes more memory than its bytes."""

    def __init__(self) -> None:
        self._calls: set[tuple[int, int]] = set()
        self._name_chars = 0

    def count_calls(self, piece: Piece) -> None:
        """Raises UpstreamError."""
        for call in piece.tool_calls:
            self._calls.add((piece.index, call.index))
            self._name_chars += len(call.name)
        if len(self._calls) > MAX_CALLS:
            raise _too_many(f"more than {MAX_CALLS} tool calls")
        if self._name_chars > MAX_NAME_CHARS:
            raise _too_many("tool names too long")


def _too_many(detail: str) -> UpstreamError:
    return UpstreamError("The target's response has too many choices or tool calls.", detail=detail)


def _unreadable(fault: Exception) -> UpstreamError:
    """Whatever a parser raises for what a target sent is the target's fault: another one is tried."""
    if isinstance(fault, EventTooLarge):
        return UpstreamError("The target's response is too large.", detail="event too large")
    return UpstreamError("The target's response cannot be read.", detail="malformed answer")


def _delta_of(event: Event, state: ChunkState, read_event: ReadEvent) -> Delta | None:
    """None for an event that adds nothing. Only events without a name, or named `message`, must be JSON: others may be
    pings."""
    if event.name == b"error":
        raise error_of(event.data)
    is_ping = event.name not in (b"", b"message") and not lenient.is_json(event.data)
    return None if is_ping else read_event(event.data, state)
