"""Responses that a target with this API wrote, passed on with the gateway's own fields."""

from collections.abc import Mapping
from typing import Any, Final

from gateway.upstreams.answers import lenient
from gateway.upstreams.answers.kept_bytes import keep_bytes
from gateway.web import sse

_KEPT: Final = ("response", "item")  # of an event
_ENDS: Final = ("response.completed", "response.incomplete")


class PassedResponse:
    """One response. `own` are the fields of the response object that the gateway answers for. `response` is the object
    so far, `sequence` the number of the next event.

    The last event is held back until the whole answer was found valid.
    """

    def __init__(self, own: Mapping[str, Any]) -> None:
        self._own = own
        self._output: list[Any] = []  # the items that are complete
        self._last: dict[str, Any] | None = None
        self._document: dict[str, Any] = {}
        self.sequence = 0

    @property
    def response(self) -> bytes:
        """The response object as it was sent last."""
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
        if kind == "response.output_item.done":
            self._output.append(event.get("item"))
        if kind in _ENDS:
            self._last = event
            return b""
        return sse.typed_event(lenient.dump(event))

    def end(self, own: Mapping[str, Any]) -> bytes:
        """The last event, with the gateway's fields as they are now. A stream that only breaks off is complete."""
        if self._last is None:
            self._document |= {"status": "completed", "output": self._output}
            self._last = {"type": "response.completed", "sequence_number": self.sequence}
        return sse.typed_event(lenient.dump({**self._last, "response": {**self._document, **own}}))

    def failed(self, error: Mapping[str, Any]) -> dict[str, Any]:
        """The response object of a stream that failed, with the items that are complete."""
        return {**self._document, **self._own, "status": "failed", "output": self._output, **error}
