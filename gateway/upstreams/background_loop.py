"""An event loop in a background thread, for a library whose import, CPU time or background tasks would block the
main loop."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")
_SHUTDOWN_S = 2.0


class BackgroundLoop:
    """Starts its thread with the first call. Cancelling a caller cancels its work in the thread; `aclose` cancels
    all work.

    May be used from one event loop only, so that no work is submitted after the request to shut down.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._is_closed = False

    async def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine in the thread and return its result or raise its exception. Raises CancelledError once
        closed."""
        if self._is_closed:
            work.close()
            raise asyncio.CancelledError
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._start()))

    async def iterate(self, source: AsyncGenerator[_T, None]) -> AsyncGenerator[_T, None]:
        """Iterate over an asynchronous generator that runs in the thread; it is closed there when this iteration
        ends."""
        end, lock = object(), asyncio.Lock()  # the lock lets a cancelled `anext` end before the source is closed
        try:
            while (item := await self.run(_next(source, end, lock))) is not end:
                yield item  # type: ignore[misc]  # the sentinel is not a _T
        finally:
            if not self._is_closed:  # closing the loop has already closed the source
                await self.run(_close(source, lock))

    async def aclose(self) -> None:
        """Cancel all work, wait briefly, and end the thread."""
        self._is_closed = True
        if self._loop is not None and self._thread is not None:
            asyncio.run_coroutine_threadsafe(_shut_down(), self._loop)
            await asyncio.to_thread(self._thread.join, _SHUTDOWN_S)

    def _start(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=_run_loop, args=(self._loop,), name=self._name, daemon=True)
            self._thread.start()
        return self._loop


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


async def _shut_down() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.wait(others, timeout=_SHUTDOWN_S / 2) if others else None
    asyncio.get_running_loop().stop()


async def _next(source: AsyncGenerator[_T, None], end: object, lock: asyncio.Lock) -> _T | object:
    async with lock:
        return await anext(source, end)


async def _close(source: AsyncGenerator[Any, None], lock: asyncio.Lock) -> None:
    async with lock:
        await source.aclose()
