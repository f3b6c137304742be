"""Corruption of completions: JSON inside a response's text loses its last bracket, everything around it stays valid.

Pure functions and one small state machine over the shapes of OpenAI completions.
"""

import json
from collections.abc import Iterator
from typing import Any

CLOSING_BRACKETS = ("}", "]")


def corrupt_completion(body: bytes) -> bytes:
    """Remove the last bracket from each choice's JSON text; a body without such text is returned unchanged."""
    try:
        response = json.loads(body)
    except ValueError:
        return body
    texts = [field for choice in _choices(response) for field in _text_fields(choice)]
    for holder, key in texts:
        holder[key] = _without_last_bracket(holder[key])
    return json.dumps(response, ensure_ascii=False, separators=(",", ":")).encode() if texts else body


class StreamCorrupter:
    """Corrupts a completion that arrives as server-sent events, however the bytes are split.

    Any bracket can be the last one, so a bracket and the white space after it are held back until more text arrives.
    What is still held back when the stream ends is never sent.
    """

    def __init__(self) -> None:
        self._incomplete = b""
        self._held: dict[int, str] = {}

    def feed(self, piece: bytes) -> bytes:
        """Return the complete events that can be sent after this piece."""
        *events, self._incomplete = (self._incomplete + piece.replace(b"\r\n", b"\n")).split(b"\n\n")
        return b"".join(self._corrupt_event(event) + b"\n\n" for event in events)

    def _corrupt_event(self, event: bytes) -> bytes:
        if not event.startswith(b"data: {"):
            return event
        chunk = json.loads(event.removeprefix(b"data: "))
        for choice in _choices(chunk):
            for holder, key in _text_fields(choice):
                holder[key] = self._hold_bracket(int(choice.get("index", 0)), holder[key])
        return b"data: " + json.dumps(chunk, ensure_ascii=False, separators=(",", ":")).encode()

    def _hold_bracket(self, index: int, text: str) -> str:
        text = self._held.get(index, "") + text
        cut = max(text.rfind(bracket) for bracket in CLOSING_BRACKETS)
        if cut < 0 or text[cut + 1 :].strip():
            self._held[index] = ""
            return text
        self._held[index] = text[cut:]
        return text[:cut]


def _choices(response: Any) -> list[dict[str, Any]]:
    found = response.get("choices") if isinstance(response, dict) else None
    return [choice for choice in found if isinstance(choice, dict)] if isinstance(found, list) else []


def _text_fields(choice: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield (holder, key) of each text in a choice: a chat message, a streamed delta, or a plain completion."""
    for holder, key in ((choice.get("message"), "content"), (choice.get("delta"), "content"), (choice, "text")):
        if isinstance(holder, dict) and isinstance(holder.get(key), str):
            yield holder, key


def _without_last_bracket(text: str) -> str:
    body = text.rstrip()
    return body[:-1] if body.endswith(CLOSING_BRACKETS) else text
