"""The gateway's response to one query: an error, or deltas to send to the client."""

from collections.abc import AsyncIterator, Callable
from typing import Protocol

from gateway.attempts.attempt import Attempt
from gateway.attempts.pushing import Send
from gateway.attempts.request_context import RequestContext
from gateway.decision import Decision
from gateway.enums import Outcome
from gateway.errors import AttemptFailed, GatewayError
from gateway.ports import Relay
from gateway.types import Delta, Plan


class ResponseListener(Protocol):
    """Receives a copy of what is sent to the client."""

    def feed(self, delta: Delta) -> None:
        """One delta, in order."""
        ...

    def done(self) -> None:
        """The response was sent completely."""
        ...


class GatewayResponse:
    """The response to one query: `error`, or `deltas`. Close it when it was sent, or when the client disconnected.

    A response with deltas exists only after the point of no return: its target can no longer change.
    """

    def __init__(
        self,
        context: RequestContext,
        finish: Callable[[RequestContext], Decision],
        *,
        buffered: list[Delta] | None = None,
        attempt: Attempt | None = None,
        error: GatewayError | None = None,
        recorder: ResponseListener | None = None,
    ) -> None:
        self.error = error
        self._context = context
        self._finish = finish
        self._buffered = buffered or []
        self._attempt = attempt
        self._recorder = recorder
        self._is_complete = error is not None
        self._is_closed = False

    @property
    def plan(self) -> Plan:
        """The plan of the query."""
        return self._context.plan

    def decision(self, now_s: float) -> Decision:
        """The decision as of now."""
        return self._context.decision(now_s)

    async def deltas(self) -> AsyncIterator[Delta]:
        """The deltas in order, once. Raises AttemptFailed if the response is truncated: do not send a regular end."""
        for delta in self.buffered():
            yield delta
        while found := await self.more():
            for delta in found:
                yield delta

    def buffered(self) -> list[Delta]:
        """The deltas to send at once, once; all of a whole answer, which is then `sent`. Others follow: `more`."""
        is_whole = self._recorder is None and not self._context.query.stream
        return self._buffered if is_whole else self._sent(self._buffered)

    async def more(self, send: Send | None = None, relay: Relay | None = None) -> list[Delta]:
        """The deltas of a stream that follow, as many as have arrived; none at the end. Raises AttemptFailed. `send`
        and `relay` may be called with some before; see `push_deltas`."""
        if self._attempt is not None and not self._attempt.is_complete:
            pushed = None if send is None or self._recorder is not None else self._pushing(send)
            try:
                while found := await self._attempt.more(pushed, relay):
                    if sent := self._sent(found):
                        return sent
            except AttemptFailed as error:
                self._context.outcome, self._context.error = Outcome.ERROR, error
                self._is_complete = True
                raise
        self._is_complete = True
        return []

    def sent(self) -> None:
        """All of it was sent."""
        self._is_complete = True

    def release(self) -> None:
        """Free the target's slot before the end, because sending the answer may take a while."""
        if self._attempt is not None:
            self._attempt.release()

    async def aclose(self) -> None:
        """Cancel the attempt if it is in progress, and report the decision; further calls do nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        if not self._is_complete:
            self._context.outcome = Outcome.CLIENT_GONE
        try:
            if self._attempt is not None:
                self._attempt.release()
                if not self._attempt.is_closed:
                    await self._attempt.aclose()
        finally:
            self._finish(self._context)
        if self._recorder is not None and self._context.outcome is Outcome.OK:
            self._recorder.done()

    def _pushing(self, send: Send) -> Send:
        """Sends what `_sent` returns."""

        def take(found: list[Delta]) -> bool:
            if len(found) == 1:
                return send(found) if found[0].pieces else True
            sent = self._sent(found)
            return send(sent) if sent else True

        return send if self._context.query.include_usage else take

    def _sent(self, deltas: list[Delta]) -> list[Delta]:
        """The gateway always requests usage at the end of a stream; clients receive it only if they requested it."""
        if self._recorder is not None:
            for delta in deltas:
                self._recorder.feed(delta)
        if self._context.query.include_usage or not self._context.query.stream:
            return deltas
        return [delta for delta in deltas if delta.pieces]
