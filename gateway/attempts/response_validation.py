"""Validation of one attempt's response by the route's checks, and how much of it is buffered first.

Every validation error is raised as InvalidOutput.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from gateway.enums import Buffer, RunawayScope, SchemaCheck
from gateway.errors import InvalidOutput
from gateway.policy_types import Checks
from gateway.types import Delta, Query
from gateway.upstreams.parse_response import with_texts
from gateway.validation.json_schema import SchemaCache, ValidationError
from gateway.validation.response_check import ResponseCheck
from twolane.process.exact_json import JsonError

_ALL: Final = RunawayScope.ALL  # finding a member in its class takes 0.2 µs


class ResponseValidation:
    """`feed` each delta as it arrives, then `finish`. `result` is None before that, and if nothing can be checked.

    With `repair`, errors are not reported early: valid JSON in a Markdown fence is an error at its first byte.
    """

    def __init__(self, query: Query, checks: Checks | None, schemas: SchemaCache, now_s: Callable[[], float]) -> None:
        self.result: SchemaCheck | None = None
        self.took_ms = 0.0
        self._query = query
        self._checks = checks
        self._schemas = schemas
        self._now_s = now_s
        self._check = self._new_check(query)
        self._progress: ResponseCheck | None = None  # of a stream that becomes a whole response
        self._is_watched = False
        # Whether what is fed stays in memory until the end.
        self.keeps_text = self._check is not None and (query.output_format is not None or bool(query.tools))

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

    def watch(self, delta: Delta) -> None:
        """What a target streams of a response that is passed on as a whole. Raises InvalidOutput like `feed`, also for
        output that runs away; `feed` the whole response as well."""
        if not self._is_watched:
            self._is_watched = True
            self._progress = self._new_check(replace(self._query, stream=True))
        if self._progress is not None:
            _raise_if(self._progress.feed(delta.pieces))

    async def examine_cuts(self) -> None:
        """Before `finish`, if the response was not checked while it arrived: what would block the event loop there."""
        if self._check is not None:
            for _ in self._check.examine_cuts():
                await asyncio.sleep(0)

    def finish(self, buffered: list[Delta]) -> list[Delta]:
        """Return the deltas to serve: `buffered`, or repaired ones. Raises InvalidOutput."""
        if self._check is None:
            return buffered
        started_s = self._now_s()
        error = self._check.finish()
        repaired = None if error is None else self._repaired(self._check, buffered)
        self.took_ms = (self._now_s() - started_s) * 1000
        if repaired is not None:
            self.result = SchemaCheck.REPAIRED
            return repaired
        _raise_if(error)
        if self._check.is_truncated:
            self.result = SchemaCheck.TRUNCATED
        elif self._check.is_verified:
            self.result = SchemaCheck.VALID
        return buffered

    def _repaired(self, check: ResponseCheck, buffered: Sequence[Delta]) -> list[Delta] | None:
        """The response with its JSON syntax closed, if the route allows repair and the result is valid."""
        again = self._new_check(self._query)
        if self._checks is None or not self._checks.repair or again is None:
            return None
        texts = check.repaired_texts()
        if not texts:
            return None
        try:
            repaired = with_texts(buffered, texts, is_chunk=self._query.stream)
        except JsonError:  # the response has what cannot be written again, such as a number that is out of range
            return None
        error = again.feed(piece for delta in repaired for piece in delta.pieces) or again.finish()
        return repaired if error is None else None

    def _new_check(self, query: Query) -> ResponseCheck | None:
        checks = self._checks
        if checks is None or not is_checked(query, checks):
            return None
        early = query.stream and not checks.repair
        check = ResponseCheck(query, self._schemas, early=early, runaway=checks.runaway)
        return check if check.has_something_to_check else None


def is_checked(query: Query, checks: Checks) -> bool:
    """Whether anything of the response is checked."""
    return query.output_format is not None or bool(query.tools) or checks.runaway is _ALL


def _raise_if(error: ValidationError | None) -> None:
    if error is not None:
        fault = InvalidOutput(f"The response does not match the requested format: {error.detail}.", detail=error.detail)
        fault.log_detail = error.log_detail
        raise fault
