"""Responses that a target with this API wrote, passed on with the gateway's own fields."""

from collections.abc import Mapping
from typing import Any, Final

from gateway.upstreams.answers import lenient
from gateway.upstreams.answers.kept_bytes import keep_bytes
from gateway.web import sse

_KEPT: Final = ("response", "item")  # of an event
_ENDS: Final = ("response.completed", "response.incomplete")


class PassedResponse:
    """One response. `own` are the fields of the response object that the gateway answers for. `sequence` is the number
    of the next event.

    The last event is held back until the whole answer was found valid.
    """

    def __init__(self, own: Mapping[str, Any]) -> None:
        self._own = own
        self._output: list[dict[str, Any]] = []  # the items that are complete
        self._last: dict[str, Any] | None = None
        self._document: dict[str, Any] = {}
        self.sequence = 0

    def response(self) -> bytes:
        """The whole response object, once the answer is complete. A stream that only breaks off is complete."""
        self._close()
        return lenient.dump(self._document)

    def event(self, original: bytes) -> bytes:
        """The next event; nothing for the last one."""
        event = lenient.load(original)
        if not event.keys().isdisjoint(_KEPT):
            keep_bytes(len(original))
        kind = event.get("type")
        event["sequence_number"] = self.sequence
        self.sequence += 1
        if isinstance(event.get("response"), dict):
            event["response"] = self._document = {**event["response"], **self._own}
        if kind == "response.output_item.done" and isinstance(event.get("item"), dict):
            self._output.append(event["item"])
        if kind in _ENDS:
            self._last = event
            return b""
        return sse.typed_event(lenient.dump(event))

    def end(self, own: Mapping[str, Any]) -> bytes:
        """The last event, with the gateway's fields as they are now."""
        return sse.typed_event(lenient.dump({**self._close(), "response": {**self._document, **own}}))

    def failed(self, error: Mapping[str, Any]) -> dict[str, Any]:
        """The response object of a stream that failed, with the items that are complete."""
        return {**self._document, **self._own, "status": "failed", "output": self._output, **error}

    def _close(self) -> dict[str, Any]:
        """The last event, whose response object has all items."""
        if self._last is None:
            self._document = {**self._document, **self._own, "status": "completed", "output": self._output}
            self._last = {"type": "response.completed", "sequence_number": self.sequence}
        given = self._document.get("output")
        items = [item for item in given if isinstance(item, dict)] if isinstance(given, list) else []
        self._document = {**self._document, "output": items or self._output}
        return self._last
