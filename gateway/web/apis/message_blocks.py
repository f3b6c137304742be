"""The content blocks of a streamed message, as events of Anthropic's API.

Blocks follow one another, while the fragments of several calls of a chat completion may alternate: one call is written
as it arrives, and what cannot be written yet is held back until the end.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.upstreams.answers import lenient
from twolane.process import exact_json

Event = dict[str, Any]


@dataclass(slots=True)
class Call:
    """One call, as far as it has arrived."""

    id: str = ""
    name: str = ""
    parts: list[str] = field(default_factory=list)  # of the arguments
    written: int = 0  # parts that were sent
    is_open: bool = False  # its block was begun
    is_closed: bool = False

    def add(self, fragment: Mapping[str, Any]) -> None:
        """Add a fragment. A name may arrive in parts, an ID does not."""
        name, part, _ = lenient.call_of(fragment)
        if isinstance(given := fragment.get("id"), str):
            self.id = self.id or given
        self.name += name
        if part:
            self.parts.append(part)

    @property
    def arguments(self) -> str:
        """What has arrived of them."""
        return "".join(self.parts)

    @property
    def is_complete(self) -> bool:
        """Whether the arguments are a whole JSON value."""
        try:
            exact_json.loads(self.arguments)
        except exact_json.JsonError:
            return False
        return True


def call_of(given: Mapping[str, Any], position: int, request_id: str) -> Call:
    """A whole call; one without an ID gets one."""
    call = Call()
    call.add(given)
    call.id = call.id or new_call_id(request_id, position)
    return call


def new_call_id(request_id: str, index: int) -> str:
    """The ID of a call for which the target has none."""
    return f"toolu_{request_id.removeprefix('req_')}_{index}"


class BlockWriter:
    """Feed it what each chunk adds, then close it. `chars` of texts, thoughts and arguments were fed."""

    def __init__(self, request_id: str) -> None:
        self._request_id = request_id
        self._index = -1  # of the last block that was begun
        self._kind = ""  # of the block that is open
        self._calls: dict[int, Call] = {}
        self._live: int | None = None  # the call that is written as it arrives
        self._held: list[tuple[str, str]] = []  # texts behind calls
        self._is_interleaved = False
        self.chars = 0

    @property
    def has_calls(self) -> bool:
        """Whether the answer calls a tool."""
        return bool(self._calls)

    def text(self, text: str) -> list[Event]:
        """Text of the answer."""
        return self._piece("text", text)

    def thought(self, text: str) -> list[Event]:
        """Reasoning."""
        return self._piece("thinking", text)

    def call(self, index: int, fragment: Mapping[str, Any]) -> list[Event]:
        """A fragment of a call."""
        call = self._calls.setdefault(index, Call())
        before = len(call.parts)
        call.add(fragment)
        self.chars += sum(map(len, call.parts[before:]))
        if call.is_closed or (self._is_interleaved and index != self._live):
            return []
        events: list[Event] = []
        if self._live is None:
            self._live = index
        elif index != self._live:
            live = self._calls[self._live]
            if not live.is_complete:
                self._is_interleaved = True
                return []
            events = self._finish(self._live)
            self._live = index
        # Before the arguments begin, the name may be incomplete.
        return events + (self._write(index) if call.parts else [])

    def close(self) -> list[Event]:
        """End the open block, and write what was held back."""
        events: list[Event] = []
        for index, call in sorted(self._calls.items(), key=lambda each: (each[0] != self._live, each[0])):
            if not call.is_closed:
                events += self._finish(index)
        held, self._held = self._held, []
        for kind, text in held:
            events += self._write_piece(kind, text)
        return events + self._stop()

    def _piece(self, kind: str, text: str) -> list[Event]:
        self.chars += len(text)
        if any(not call.is_closed for call in self._calls.values()):
            self._held.append((kind, text))
            return []
        return self._write_piece(kind, text)

    def _write_piece(self, kind: str, text: str) -> list[Event]:
        events: list[Event] = []
        if self._kind != kind:
            empty = {"type": "text", "text": ""}
            if kind == "thinking":
                empty = {"type": "thinking", "thinking": "", "signature": ""}
            events = self._begin(kind, empty)
        return [*events, self._delta({"type": f"{kind}_delta", kind: text})]

    def _write(self, index: int) -> list[Event]:
        """The arguments of a call that were not written yet."""
        call = self._calls[index]
        events: list[Event] = []
        if not call.is_open:
            call.is_open = True
            call_id = call.id or new_call_id(self._request_id, index)
            events = self._begin("tool_use", {"type": "tool_use", "id": call_id, "name": call.name, "input": {}})
        if call.written < len(call.parts):
            text = "".join(call.parts[call.written :])
            events.append(self._delta({"type": "input_json_delta", "partial_json": text}))
            call.written = len(call.parts)
        return events

    def _finish(self, index: int) -> list[Event]:
        events = self._write(index) + self._stop()
        self._calls[index].is_closed = True
        return events

    def _begin(self, kind: str, block: dict[str, Any]) -> list[Event]:
        events = self._stop()
        self._kind, self._index = kind, self._index + 1
        return [*events, {"type": "content_block_start", "index": self._index, "content_block": block}]

    def _stop(self) -> list[Event]:
        if not self._kind:
            return []
        events: list[Event] = []
        if self._kind == "thinking":
            events.append(self._delta({"type": "signature_delta", "signature": self._request_id}))
        self._kind = ""
        return [*events, {"type": "content_block_stop", "index": self._index}]

    def _delta(self, delta: dict[str, Any]) -> Event:
        return {"type": "content_block_delta", "index": self._index, "delta": delta}
