"""Cancels the work for a client that disconnects."""

import asyncio
from types import TracebackType

from starlette.types import Receive


class CancelOnDisconnect:
    """`with CancelOnDisconnect(receive) as client:` around the work; then `client.has_disconnected` is set.

    Enter it after the body has been read: the next ASGI message can then only be the disconnect.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.has_disconnected = False

    def __enter__(self) -> "CancelOnDisconnect":
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._watch = asyncio.create_task(self._wait())
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, _: TracebackType | None) -> bool:
        """Suppress only the cancellation that this object caused."""
        self.stop()
        if self.has_disconnected and self._task.cancelling() and self._task.uncancel() == 0:
            return kind is asyncio.CancelledError
        return False

    def stop(self) -> None:
        """The response is about to be complete: cancel nothing from now on."""
        self._watch.cancel()

    async def _wait(self) -> None:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.has_disconnected = True
            self._task.cancel()
