"""The consumer's side of a submitted request: an asynchronous stream of its events, with abort and stop."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from diffusion_worker.types.events import Ending, Event
from diffusion_worker.types.observations import Outcome


class OutputStream:
    """Events of one submitted request; the last is Finished or Faulted.

    Leaving the context manager, or being cancelled while waiting for an event, aborts the sequence. Must be used on the
    event loop that created it.
    """

    def __init__(self, leave: Callable[[Outcome], None]) -> None:
        self._leave = leave
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._is_over = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if self._is_over:
            raise StopAsyncIteration
        try:
            event = await self._events.get()
        except asyncio.CancelledError:
            self.abort()
            raise
        self._is_over = isinstance(event, Ending)
        return event

    def abort(self) -> None:
        """Abort the sequence; it ends in Faulted(Cancelled)."""
        if not self._is_over:
            self._leave(Outcome.CANCELLED)

    def stop(self) -> None:
        """Finish the sequence early, such as at a stop string; it ends in Finished(stop)."""
        if not self._is_over:
            self._leave(Outcome.FINISHED)

    def deliver(self, event: Event) -> None:
        """Add an event; called by the engine on the event loop."""
        self._events.put_nowait(event)
