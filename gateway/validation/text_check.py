"""Does one text keep one promise? Fed as it comes; each check tells a fault as soon as it is sure, and where it is.

Knows one text of one answer: the choices of an answer, and its tool calls, are put together in `answer`.
"""

from typing import Final, Protocol

import orjson

from gateway.validation.json_prefix import JsonPrefix
from gateway.validation.json_repair import mend
from gateway.validation.json_schema import Fault, Schema
from gateway.validation.schema_stream import SchemaFollower

# Longer texts are judged, but where exactly they went wrong is not looked for: it would hold up everybody else.
_MOST_TRACED_CHARS: Final = 1 << 16


class TextCheck(Protocol):
    """`feed` pieces, then `finish` once; either returns the first fault, or None. After a fault, nothing more."""

    def feed(self, piece: str) -> Fault | None:
        """A fault here means that nothing to come can mend the text."""
        ...

    def finish(self) -> Fault | None:
        """The verdict on the whole text."""
        ...


class JsonCheck:
    """The text is one JSON document, and fits the schema if there is one. `early` asks for faults while it comes."""

    def __init__(self, schema: Schema | None, *, early: bool) -> None:
        self._schema = schema
        self._texts: list[str] = []
        self._reader = self._new_reader() if early else None

    def feed(self, piece: str) -> Fault | None:
        """See `TextCheck`."""
        self._texts.append(piece)
        if self._reader is None or self._reader.feed(piece):
            return None
        return _fault_at(self._reader, "".join(self._texts))

    def finish(self) -> Fault | None:
        """See `TextCheck`. The compiled validator has the word; who is told where is the reader's."""
        text = "".join(self._texts)
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError as wrong:
            return self._traced(text) or self._unparsed(text, wrong.pos)
        fault = self._schema.fault_of(value, len(text)) if self._schema is not None else None
        return fault and (self._traced(text) or fault)

    def mended(self) -> str | None:
        """The text with its syntax closed, if that was wanting and can be done."""
        return mend("".join(self._texts))

    def _new_reader(self) -> JsonPrefix:
        return JsonPrefix() if self._schema is None else self._schema.follow()

    def _traced(self, text: str) -> Fault | None:
        """Where a whole text went wrong, if that can be said; the same that a reader of its pieces would have said."""
        if len(text) > _MOST_TRACED_CHARS:
            return None
        reader = self._new_reader()
        return None if reader.feed(text) else _fault_at(reader, text)

    def _unparsed(self, text: str, position: int) -> Fault:
        """Nothing impossible was found: it ended too early, or holds what the parser cannot represent."""
        reader = JsonPrefix()
        if len(text) > _MOST_TRACED_CHARS or not reader.feed(text) or reader.is_complete:
            return Fault(keyword="json", place="#", byte=_bytes(text, position))
        return Fault(keyword="json", place="its end")


class ChoiceCheck:
    """The text is one of these."""

    def __init__(self, choices: tuple[str, ...], *, early: bool) -> None:
        self._choices = choices
        self._left = choices if early else None  # those that the text so far begins
        self._texts: list[str] = []
        self._length = 0

    def feed(self, piece: str) -> Fault | None:
        """See `TextCheck`."""
        self._texts.append(piece)
        if self._left is None:
            return None
        self._left = tuple(choice for choice in self._left if choice.startswith(piece, self._length))
        self._length += len(piece)
        return None if self._left else self._fault()

    def finish(self) -> Fault | None:
        """See `TextCheck`."""
        return None if "".join(self._texts) in self._choices else self._fault()

    def _fault(self) -> Fault:
        """At the first byte that no choice has there; a text that only ended too early has none."""
        text = "".join(self._texts)
        shared = max((_shared(text, choice) for choice in self._choices), default=0)
        return Fault(keyword="choice", place="#", byte=_bytes(text, shared) if shared < len(text) else None)


class PatternCheck:
    """The whole text matches a regular expression (as `validate.check_pattern` made it)."""

    def __init__(self, pattern: Schema) -> None:
        self._pattern = pattern
        self._texts: list[str] = []

    def feed(self, piece: str) -> Fault | None:
        """See `TextCheck`. What a beginning may become is not known without running the pattern backwards."""
        self._texts.append(piece)
        return None

    def finish(self) -> Fault | None:
        """See `TextCheck`."""
        text = "".join(self._texts)
        return Fault(keyword="regex", place="#") if self._pattern.fault_of(text, len(text)) else None


def _fault_at(reader: JsonPrefix, text: str) -> Fault:
    at = reader.fault_at
    assert at is not None
    if isinstance(reader, SchemaFollower) and reader.breach is not None:
        return Fault(keyword=reader.breach.keyword, place=reader.breach.place, byte=_bytes(text, at))
    return Fault(keyword="json", place="#", byte=_bytes(text, at))


def _bytes(text: str, characters: int) -> int:
    return len(text[:characters].encode("utf-8", "surrogatepass"))


def _shared(text: str, choice: str) -> int:
    """How many characters both begin with."""
    for at, (ours, theirs) in enumerate(zip(text, choice, strict=False)):
        if ours != theirs:
            return at
    return min(len(text), len(choice))
