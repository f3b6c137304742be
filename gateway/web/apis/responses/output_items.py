"""The output items of a response, as they grow, and the events of a stream that report it.

An event is its type and its fields; the writer adds the sequence number, the item's id and its position.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

Event = tuple[str, dict[str, Any]]

TEXT: Final = "output_text"
REFUSAL: Final = "refusal"
REASONING: Final = "reasoning_text"
_TEXT_KEYS: Final = {TEXT: "text", REFUSAL: "refusal", REASONING: "text"}


class Item(Protocol):
    """One output item. Its events are `added`, those of its contents, and `done`, which carry the whole item."""

    @property
    def id(self) -> str:
        """Unique within the response."""
        ...

    @property
    def index(self) -> int:
        """Its position in the output."""
        ...

    def document(self, status: str) -> dict[str, Any]:
        """The item so far."""
        ...

    def close(self) -> Iterator[Event]:
        """The events that complete its contents."""
        ...


@dataclass(slots=True)
class _Part:
    """One part of a content; its texts are joined once, at the end."""

    kind: str
    texts: list[str] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)
    annotations: list[Any] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        written: dict[str, Any] = {"type": self.kind, _TEXT_KEYS[self.kind]: "".join(self.texts)}
        return written if self.kind != TEXT else {**written, "annotations": self.annotations, "logprobs": self.logprobs}


class ContentItem:
    """See `Item`. A message, or the reasoning of the model if `is_reasoning`."""

    def __init__(self, item_id: str, index: int, *, is_reasoning: bool) -> None:
        self.id = item_id
        self.index = index
        self.is_reasoning = is_reasoning
        self._parts: list[_Part] = []

    def document(self, status: str) -> dict[str, Any]:
        """See `Item`."""
        content = [part.document() for part in self._parts]
        if self.is_reasoning:
            return {"type": "reasoning", "id": self.id, "summary": [], "content": content, "status": status}
        return {"type": "message", "id": self.id, "status": status, "role": "assistant", "content": content}

    def feed(
        self, kind: str, text: str, logprobs: Iterable[Any] = (), annotations: Iterable[Any] = ()
    ) -> Iterator[Event]:
        """The next text. Another kind begins the next part."""
        if not self._parts or self._parts[-1].kind != kind:
            yield from self.close()
            self._parts.append(_Part(kind))
            yield "response.content_part.added", self._of_part(part=self._parts[-1].document())
        part, listed = self._parts[-1], list(logprobs)
        part.texts.append(text)
        part.logprobs += listed
        part.annotations += annotations
        if text or listed:
            more = {"logprobs": listed} if kind == TEXT else {}
            yield f"response.{kind}.delta", self._of_part(delta=text, **more)

    def close(self) -> Iterator[Event]:
        """See `Item`."""
        if not self._parts:
            return
        part = self._parts[-1].document()
        key = _TEXT_KEYS[part["type"]]
        more = {"logprobs": part["logprobs"]} if part["type"] == TEXT else {}
        yield f"response.{part['type']}.done", self._of_part(**{key: part[key]}, **more)
        yield "response.content_part.done", self._of_part(part=part)

    def _of_part(self, **fields: Any) -> dict[str, Any]:
        return {"content_index": len(self._parts) - 1, **fields}


class CallItem:
    """See `Item`. A call of a function or of a custom tool; its arguments or input arrive in fragments. `names` are its
    namespace, if it has one, and its name."""

    def __init__(
        self, item_id: str, index: int, *, call_id: str, names: tuple[str | None, str], is_custom: bool
    ) -> None:
        self.id = item_id
        self.index = index
        self._call_id = call_id
        self._namespace, self._name = names
        self._is_custom = is_custom
        self._key = "input" if is_custom else "arguments"
        self._texts: list[str] = []

    def document(self, status: str) -> dict[str, Any]:
        """See `Item`."""
        kind = "custom_tool_call" if self._is_custom else "function_call"
        head = {"type": kind, "id": self.id, "call_id": self._call_id, "name": self._name}
        if self._namespace is not None:
            head["namespace"] = self._namespace
        return {**head, self._key: "".join(self._texts), "status": status}

    def feed(self, text: str) -> Iterator[Event]:
        """The next fragment."""
        if text:
            self._texts.append(text)
            yield f"{self._event}.delta", {"delta": text}

    def close(self) -> Iterator[Event]:
        """See `Item`."""
        named = {} if self._is_custom else {"name": self._name}
        yield f"{self._event}.done", {self._key: "".join(self._texts), **named}

    @property
    def _event(self) -> str:
        return "response.custom_tool_call_input" if self._is_custom else "response.function_call_arguments"
