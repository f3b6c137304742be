"""What one API that clients call consists of: how its requests become a Query, and how answers take its form."""

import re
from collections.abc import Awaitable, Callable, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Final, Protocol, TypeVar

from gateway.errors import GatewayError
from gateway.types import Query
from gateway.web import sse
from twolane.process.api_keys import Key
from twolane.process.records import replaced
from twolane.process.trace_context import Trace

_NESTED: Final = re.compile(r"[.\[]")
Error = TypeVar("Error", bound=GatewayError)


class Parse(Protocol):
    """Parses a request. Raises BadRequest, whose `param` names the field."""

    def __call__(
        self, body: bytes, headers: dict[bytes, bytes], *, now_s: float, key: Key | None, trace: Trace | None = None
    ) -> Query:
        """`now_s` is when the request arrived."""
        ...


class Writer(Protocol):
    """Writes one answer. It is given chat completions, the form in which the pipeline returns every answer. `original`
    is what the target sent, if that has the same API; see `types.Delta`."""

    def whole(self, completion: bytes, original: bytes = b"", /) -> bytes:
        """The answer to a request that does not stream."""
        ...

    def events(self, chunk: bytes, original: bytes = b"", /) -> bytes:
        """The events for one chunk of the answer; empty if it adds nothing. Raises OutOfBytes if what it keeps of the
        answer does not fit."""
        ...

    async def keep(self, completion: bytes = b"", original: bytes = b"", /) -> None:
        """Store the answer, if it is to be stored, before the whole of it or its end is written. Never fails."""
        ...

    def end(self) -> bytes:
        """The last events of a complete stream."""
        ...

    def failed(self, error: GatewayError) -> bytes:
        """The last events of a stream that failed, perhaps before its first chunk."""
        ...


class ChunkWriter(Protocol):
    """Writes an answer whose stream consists of chunks, as those of chat completions do."""

    def whole(self, completion: bytes) -> bytes:
        """See `Writer`."""
        ...

    def chunks(self, chunk: bytes) -> list[bytes]:
        """The chunks for one chunk of the answer; none if it adds nothing."""
        ...

    def end(self) -> list[bytes]:
        """The chunks that end a complete stream."""
        ...


class ChunkEvents:
    """See `Writer`. The events of chunks have the form of the API's streams, see `sse.form_of`."""

    def __init__(self, chunks: ChunkWriter, query: Query) -> None:
        self._chunks = chunks
        self._query = query
        self._form = sse.form_of(query.beyond_chat.path)

    def whole(self, completion: bytes, _original: bytes = b"", /) -> bytes:
        """See `Writer`."""
        return self._chunks.whole(completion)

    def events(self, chunk: bytes, _original: bytes = b"", /) -> bytes:
        """See `Writer`."""
        return b"".join(map(self._form.event, self._chunks.chunks(chunk)))

    async def keep(self, _completion: bytes = b"", _original: bytes = b"", /) -> None:
        """See `Writer`. Only responses are stored."""

    def end(self) -> bytes:
        """See `Writer`."""
        return b"".join(map(self._form.event, self._chunks.end())) + self._form.done

    def failed(self, error: GatewayError) -> bytes:
        """See `Writer`."""
        return sse.error_event(error, self._query.beyond_chat.path, self._query.request_id)


MakeWriter = Callable[[Query, float], Writer]


def in_chunks(make: Callable[[Query, float], ChunkWriter]) -> MakeWriter:
    """The writers of an API whose streams consist of chunks."""
    return lambda query, wall_s: ChunkEvents(make(query, wall_s), query)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientApi:
    """One API. Without a `writer`, answers are sent as the pipeline returns them.

    `writer` makes the writer for one request; its second argument is the time in seconds since the epoch. `renamed` are
    fields that have another name in this API than in chat completions, for errors that name a field; the name of a
    field also stands for what is nested in it. `counts_tokens`: the answer is the number of input tokens. `prepare`
    reads what a request refers to outside of its body, and returns the parser to use instead.
    """

    path: str
    parse: Parse
    writer: MakeWriter | None = None
    renamed: Mapping[str, str] = field(default_factory=dict)
    counts_tokens: bool = False
    prepare: Callable[[bytes, Key | None], Awaitable[Parse]] | None = None

    def read(
        self, body: bytes, headers: dict[bytes, bytes], *, now_s: float, key: Key | None, trace: Trace | None = None
    ) -> Query:
        """The request, with the path that was called. Raises BadRequest."""
        query = self.parse(body, headers, now_s=now_s, key=key, trace=trace)
        if self.path == query.beyond_chat.path:
            return query
        return replaced(query, beyond_chat=replace(query.beyond_chat, path=self.path))

    def in_its_terms(self, error: GatewayError, query: Query) -> GatewayError:
        """An error of the pipeline, with the field named as the client wrote it."""
        own = query.beyond_chat.renamed
        return with_names(error, {**self.renamed, **own} if own else self.renamed)


def with_names(error: Error, names: Mapping[str, str]) -> Error:
    """The error with the field under its name in `names`, which may be that of the object that contains it."""
    param = error.param or ""
    name = names.get(param) or names.get(_NESTED.split(param, maxsplit=1)[0])
    return error if name is None else renamed_field(error, name)


def renamed_field(error: Error, name: str) -> Error:
    """The same error of another field, also in its text."""
    renamed = copy(error)
    renamed.message, renamed.param = error.message.replace(repr(error.param), repr(name)), name
    return renamed
