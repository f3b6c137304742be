"""How answers are spoiled: JSON inside a completion loses its last brace while everything around it stays well-formed.

Pure functions and one small state; knows the shapes of OpenAI completions, knows nothing of sockets.
"""

import json
from collections.abc import Iterator
from typing import Any

CLOSERS = ("}", "]")


def spoil_completion(body: bytes) -> bytes:
    """Cut the last bracket out of each choice's JSON text; a body that holds no such text is returned unchanged."""
    try:
        answer = json.loads(body)
    except ValueError:
        return body
    texts = [slot for choice in _choices(answer) for slot in _text_slots(choice)]
    for holder, key in texts:
        holder[key] = _without_last_bracket(holder[key])
    return json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode() if texts else body


class StreamSpoiler:
    """Spoils a completion that comes as server-sent events, whatever the borders of its pieces.

    A bracket can be the last one, so it and what follows it wait until more text proves it was not; what still waits
    when the stream ends is never sent.
    """

    def __init__(self) -> None:
        self._unread = b""
        self._waiting: dict[int, str] = {}

    def feed(self, piece: bytes) -> bytes:
        """Return what may leave after this piece: whole events only."""
        *events, self._unread = (self._unread + piece.replace(b"\r\n", b"\n")).split(b"\n\n")
        return b"".join(self._spoil_event(event) + b"\n\n" for event in events)

    def _spoil_event(self, event: bytes) -> bytes:
        if not event.startswith(b"data: {"):
            return event
        chunk = json.loads(event.removeprefix(b"data: "))
        for choice in _choices(chunk):
            for holder, key in _text_slots(choice):
                holder[key] = self._hold_bracket(int(choice.get("index", 0)), holder[key])
        return b"data: " + json.dumps(chunk, ensure_ascii=False, separators=(",", ":")).encode()

    def _hold_bracket(self, index: int, text: str) -> str:
        text = self._waiting.get(index, "") + text
        cut = max(text.rfind(closer) for closer in CLOSERS)
        if cut < 0 or text[cut + 1 :].strip():
            self._waiting[index] = ""
            return text
        self._waiting[index] = text[cut:]
        return text[:cut]


def _choices(answer: Any) -> list[dict[str, Any]]:
    found = answer.get("choices") if isinstance(answer, dict) else None
    return [choice for choice in found if isinstance(choice, dict)] if isinstance(found, list) else []


def _text_slots(choice: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield (holder, key) of each text in a choice: a chat message, a streamed delta, or a plain completion."""
    for holder, key in ((choice.get("message"), "content"), (choice.get("delta"), "content"), (choice, "text")):
        if isinstance(holder, dict) and isinstance(holder.get(key), str):
            yield holder, key


def _without_last_bracket(text: str) -> str:
    body = text.rstrip()
    return body[:-1] if body.endswith(CLOSERS) else text
