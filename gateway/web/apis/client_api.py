"""What one API that clients call consists of: how its requests become a Query, and how answers take its form."""

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

from gateway.errors import BadRequest, GatewayError
from gateway.types import Query
from twolane.process.api_keys import Key
from twolane.process.trace_context import Trace

Error = TypeVar("Error", bound=GatewayError)


class Parse(Protocol):
    """Parses a request. Raises BadRequest, whose `param` names the field."""

    def __call__(
        self, body: bytes, headers: dict[bytes, bytes], *, now_s: float, key: Key | None, trace: Trace | None = None
    ) -> Query:
        """`now_s` is when the request arrived."""
        ...


class Writer(Protocol):
    """Writes one answer. It is given chat completions, the form in which the pipeline returns every answer."""

    def whole(self, completion: bytes) -> bytes:
        """The answer to a request that does not stream."""
        ...

    def chunks(self, chunk: bytes) -> list[bytes]:
        """The chunks for one chunk of the answer; none if it adds nothing."""
        ...

    def end(self) -> list[bytes]:
        """The chunks that end a complete stream."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientApi:
    """One API. Without a `writer`, answers are sent as the pipeline returns them.

    `writer` makes the writer for one request; its second argument is the time in seconds since the epoch. `renamed` are
    fields that have another name in this API than in chat completions, for errors that name a field. `counts_tokens`:
    the answer is the number of input tokens.
    """

    path: str
    parse: Parse
    writer: Callable[[Query, float], Writer] | None = None
    renamed: Mapping[str, str] = field(default_factory=dict)
    counts_tokens: bool = False

    def read(
        self, body: bytes, headers: dict[bytes, bytes], *, now_s: float, key: Key | None, trace: Trace | None = None
    ) -> Query:
        """The request, with the path that was called. Raises BadRequest in the terms of this API."""
        try:
            query = self.parse(body, headers, now_s=now_s, key=key, trace=trace)
        except BadRequest as error:
            raise self.in_its_terms(error) from None
        if self.path == query.beyond_chat.path:
            return query
        return replace(query, beyond_chat=replace(query.beyond_chat, path=self.path))

    def in_its_terms(self, error: GatewayError) -> GatewayError:
        """The error with the field named as the client wrote it, also in its text."""
        name = self.renamed.get(error.param or "")
        return error if name is None else renamed_field(error, name)


def renamed_field(error: Error, name: str) -> Error:
    """The same error of another field."""
    renamed = copy(error)
    renamed.message, renamed.param = error.message.replace(repr(error.param), repr(name)), name
    return renamed
