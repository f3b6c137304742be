"""What one attempt's answer must pass, and how much of it must be seen before any may leave.

Knows a route's checks and OpenAI's answers; whom else to ask is not its business. Every fault is an InvalidOutput.
"""

from collections.abc import Callable, Sequence

from gateway.enums import Buffer, SchemaCheck
from gateway.errors import InvalidOutput
from gateway.policy_types import Checks
from gateway.types import Delta, Query
from gateway.upstreams.parse_response import with_texts
from gateway.validation.json_schema import Fault, SchemaCache
from gateway.validation.response_check import ResponseCheck


class ResponseValidation:
    """`read_along` each delta as it comes, then `judge` the whole. `result` is None until then, or if nothing is asked.

    What might be repaired is not read along: a fence around good JSON is a fault at its first byte.
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
    def wanted_bytes(self) -> int | None:
        """How much of its text must be seen before a stream may leave; None: all of the answer."""
        if self._check is None or self._checks is None or self._checks.buffer is Buffer.NONE:
            return 1
        return self._checks.first_bytes if self._checks.buffer is Buffer.FIRST_BYTES else None

    def read_along(self, delta: Delta) -> None:
        """Raises InvalidOutput once nothing to come can mend the answer."""
        if self._check is not None:
            _raise_if(self._check.feed(delta.pieces))

    def judge(self, held: list[Delta]) -> list[Delta]:
        """Raises InvalidOutput, or returns what may be served of an answer of which `held` has not left yet."""
        if self._check is None:
            return held
        began_s = self._now_s()
        fault = self._check.finish()
        self.result = SchemaCheck.VALID
        if fault is not None:
            repaired = self._repaired(self._check, held)
            if repaired is not None:
                self.result, held, fault = SchemaCheck.REPAIRED, repaired, None
        self.took_ms = (self._now_s() - began_s) * 1000
        _raise_if(fault)
        return held

    def _repaired(self, check: ResponseCheck, held: Sequence[Delta]) -> list[Delta] | None:
        """The same answer with its syntax closed, if the route allows that and it is good then."""
        again = self._new_check()
        if self._checks is None or not self._checks.repair or again is None:
            return None
        texts = check.mended()
        if not texts:
            return None
        repaired = with_texts(held, texts)
        fault = again.feed(piece for delta in repaired for piece in delta.pieces) or again.finish()
        return repaired if fault is None else None

    def _new_check(self) -> ResponseCheck | None:
        if self._checks is None:
            return None
        check = ResponseCheck(self._query, self._schemas, early=self._query.stream and not self._checks.repair)
        return check if check.has_something_to_check else None


def _raise_if(fault: Fault | None) -> None:
    if fault is not None:
        raise InvalidOutput(f"The answer breaks the request's schema: {fault.detail}.", detail=fault.detail)
