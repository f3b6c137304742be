"""A client that leaves cancels the work done for it. Knows ASGI's `receive` and tasks, nothing else."""

import asyncio
from types import TracebackType

from starlette.types import Receive


class CancelOnDisconnect:
    """`with CancelOnDisconnect(receive) as client:` around the work; `client.left` tells afterwards.

    Enter it once the request's body has been read: what `receive` says next can only be the client's leaving.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.left = False

    def __enter__(self) -> "CancelOnDisconnect":
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._watch = asyncio.create_task(self._wait())
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, _: TracebackType | None) -> bool:
        """Swallow the cancellation that we caused ourselves, and only that one."""
        self.stop()
        if self.left and self._task.cancelling() and self._task.uncancel() == 0:
            return kind is asyncio.CancelledError
        return False

    def stop(self) -> None:
        """The answer is about to be complete: from now on nobody is interrupted."""
        self._watch.cancel()

    async def _wait(self) -> None:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.left = True
            self._task.cancel()
