"""A second event loop in a thread of its own, for a library that would hold up the first: its import, its CPU time, its
background tasks. Knows neither the library nor what is asked of it.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")
_LEAVE_S = 2.0


class BackgroundLoop:
    """Begins with the first call. Cancelling who waits cancels what runs aside; `aclose` cancels all of it.

    Used from one event loop only, so that nothing is sent over behind the word to leave.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._is_closed = False

    async def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Its result or exception, as if it had been awaited here. Once closed: cancelled."""
        if self._is_closed:
            work.close()
            raise asyncio.CancelledError
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._started()))

    async def iterate(self, source: AsyncGenerator[_T, None]) -> AsyncGenerator[_T, None]:
        """What an asynchronous generator yields that runs aside; closed there, too, however this one ends."""
        end, turn = object(), asyncio.Lock()  # a pull that was cancelled ends before the source is closed
        try:
            while (item := await self.run(_next(source, end, turn))) is not end:
                yield item  # type: ignore[misc]  # the sentinel is no _T
        finally:
            if not self._is_closed:  # then whoever ended the loop has closed the source
                await self.run(_close(source, turn))

    async def aclose(self) -> None:
        """Cancel what runs, wait for it a little, and end the thread."""
        self._is_closed = True
        if self._loop is not None and self._thread is not None:
            asyncio.run_coroutine_threadsafe(_leave(), self._loop)
            await asyncio.to_thread(self._thread.join, _LEAVE_S)

    def _started(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=_live, args=(self._loop,), name=self._name, daemon=True)
            self._thread.start()
        return self._loop


def _live(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


async def _leave() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.wait(others, timeout=_LEAVE_S / 2) if others else None
    asyncio.get_running_loop().stop()


async def _next(source: AsyncGenerator[_T, None], end: object, turn: asyncio.Lock) -> _T | object:
    async with turn:
        return await anext(source, end)


async def _close(source: AsyncGenerator[Any, None], turn: asyncio.Lock) -> None:
    async with turn:
        await source.aclose()
