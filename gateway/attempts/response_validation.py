"""Validation of one attempt's response by the route's checks, and how much of it is buffered first.

Every validation error is raised as InvalidOutput.
"""

from collections.abc import Callable, Sequence

from gateway.enums import Buffer, SchemaCheck
from gateway.errors import InvalidOutput
from gateway.policy_types import Checks
from gateway.types import Delta, Query
from gateway.upstreams.parse_response import with_texts
from gateway.validation.json_schema import SchemaCache, ValidationError
from gateway.validation.response_check import ResponseCheck


class ResponseValidation:
    """`feed` each delta as it arrives, then `finish`. `result` is None before that, and if there is nothing to check.

    With `repair`, errors are not reported early: valid JSON in a Markdown fence is an error at its first byte.
    """

    def __init__(self, query: Query, checks: Checks | None, schemas: SchemaCache, now_s: Callable[[], float]) -> None:
        self.result: SchemaCheck | None = None
        self.took_ms = 0.0
        self._query = query
        self._checks = checks
        self._schemas = schemas
        self._now_s = now_s
        self._check = self._new_check()

    @property
    def bytes_to_buffer(self) -> int | None:
        """Bytes of text to buffer before a stream may be sent; None: the whole response."""
        if self._check is None or self._checks is None or self._checks.buffer is Buffer.NONE:
            return 1
        return self._checks.first_bytes if self._checks.buffer is Buffer.FIRST_BYTES else None

    def feed(self, delta: Delta) -> None:
        """Raises InvalidOutput as soon as no continuation can make the response valid."""
        if self._check is not None:
            _raise_if(self._check.feed(delta.pieces))

    def finish(self, buffered: list[Delta]) -> list[Delta]:
        """Return the deltas to serve: `buffered`, or repaired ones. Raises InvalidOutput."""
        if self._check is None:
            return buffered
        started_s = self._now_s()
        error = self._check.finish()
        self.result = SchemaCheck.VALID
        if error is not None:
            repaired = self._repaired(self._check, buffered)
            if repaired is not None:
                self.result, buffered, error = SchemaCheck.REPAIRED, repaired, None
        self.took_ms = (self._now_s() - started_s) * 1000
        _raise_if(error)
        return buffered

    def _repaired(self, check: ResponseCheck, buffered: Sequence[Delta]) -> list[Delta] | None:
        """The response with its JSON syntax closed, if the route allows repair and the result is valid."""
        again = self._new_check()
        if self._checks is None or not self._checks.repair or again is None:
            return None
        texts = check.repaired_texts()
        if not texts:
            return None
        repaired = with_texts(buffered, texts)
        error = again.feed(piece for delta in repaired for piece in delta.pieces) or again.finish()
        return repaired if error is None else None

    def _new_check(self) -> ResponseCheck | None:
        if self._checks is None:
            return None
        check = ResponseCheck(self._query, self._schemas, early=self._query.stream and not self._checks.repair)
        return check if check.has_something_to_check else None


def _raise_if(error: ValidationError | None) -> None:
    if error is not None:
        raise InvalidOutput(f"The response does not match the requested format: {error.detail}.", detail=error.detail)
