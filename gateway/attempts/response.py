"""What leaves the gateway for one query, whole or in pieces. Knows the attempt that won, not the wire."""

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Protocol

from gateway.attempts.attempt import Attempt
from gateway.attempts.request_context import RequestContext
from gateway.decision import Decision
from gateway.enums import Outcome
from gateway.errors import AttemptFailed, GatewayError
from gateway.types import Delta


class ResponseListener(Protocol):
    """Who hears what is sent, beside the client."""

    def hear(self, delta: Delta) -> None:
        """One delta, in order."""
        ...

    def done(self) -> None:
        """The answer was sent whole."""
        ...


class GatewayResponse:
    """What leaves for one query: `error`, or `deltas`. Close it when sent, or when the client has left.

    An Answer with deltas exists only behind the point of no return: whoever answers now, answers to the end.
    """

    def __init__(
        self,
        context: RequestContext,
        explained: Callable[[RequestContext], Decision],
        *,
        held: Iterable[Delta] = (),
        attempt: Attempt | None = None,
        error: GatewayError | None = None,
        recorder: ResponseListener | None = None,
    ) -> None:
        self.error = error
        self._journey = context
        self._explained = explained
        self._held = held
        self._attempt = attempt
        self._witness = recorder
        self._is_complete = error is not None
        self._is_closed = False

    def decision(self, now_s: float) -> Decision:
        """What was decided up to now."""
        return self._journey.decision(now_s)

    async def deltas(self) -> AsyncIterator[Delta]:
        """In order, once. Raises AttemptFailed where the answer breaks off; then its end must not look like one."""
        for delta in self._held:
            if self._is_sent(delta):
                yield delta
        if self._attempt is not None and not self._attempt.is_whole:
            try:
                async for delta in self._attempt.rest():
                    if self._is_sent(delta):
                        yield delta
            except AttemptFailed:
                self._journey.outcome = Outcome.ERROR
                self._is_complete = True
                raise
        self._is_complete = True

    async def aclose(self) -> None:
        """Hang up on whoever still answers, and tell what happened; further calls do nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        if not self._is_complete:
            self._journey.outcome = Outcome.CLIENT_GONE
        try:
            if self._attempt is not None:
                await self._attempt.abandon()
        finally:
            self._explained(self._journey)
        if self._witness is not None and self._journey.outcome is Outcome.OK:
            self._witness.done()

    def _is_sent(self, delta: Delta) -> bool:
        """We always ask for the account behind a stream; the client sees it only if it asked as well."""
        if self._witness is not None:
            self._witness.hear(delta)
        return bool(delta.pieces) or self._journey.query.include_usage or not self._journey.query.stream
