"""The reader's end of a submitted ask: its events as they come, and how to say that no more are wanted.

Belongs to one event loop. Knows no engine but the one call that ends a sequence.
"""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from diffusion_worker.types.events import Ending, Event
from diffusion_worker.types.observations import Outcome


class OutputStream:
    """One submitted ask: iterate it for events, the last of which is Finished or Faulted. Leaving its context, or being
    cancelled while waiting for an event, aborts the sequence. Belongs to the event loop it was made on."""

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
        """The reader has gone: the sequence takes part in no later step and ends in Faulted(Cancelled)."""
        if not self._is_over:
            self._leave(Outcome.CANCELLED)

    def stop(self) -> None:
        """The reader has enough, e.g. it found a stop string: the sequence ends in Finished(stop)."""
        if not self._is_over:
            self._leave(Outcome.FINISHED)

    def deliver(self, event: Event) -> None:
        """Hand an event to the reader; called by the engine on the event loop."""
        self._events.put_nowait(event)
