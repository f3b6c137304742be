"""Cancels the work for a client that disconnects."""

import asyncio
from types import TracebackType
from typing import Any

from starlette.types import Scope

from twolane.process.http.request_cycle import CYCLE, WATCH, RequestCycle


class CancelOnDisconnect:
    """`with CancelOnDisconnect(scope) as client:` around the work; then `client.has_disconnected` is set.

    Enter it after the body has been read. The connection calls it when it is lost; no task waits for that.
    """

    __slots__ = ("_cycle", "_is_watching", "_task", "_watch", "has_disconnected")

    def __init__(self, scope: Scope) -> None:
        self._watch = scope[WATCH]
        self._cycle: RequestCycle | None = scope.get(CYCLE)
        self.has_disconnected = False

    def __enter__(self) -> "CancelOnDisconnect":
        task = self._cycle.task if self._cycle is not None else asyncio.current_task()
        assert task is not None
        self._task: asyncio.Task[Any] = task
        self._is_watching = True
        self._watch(self._cancel)
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, _: TracebackType | None) -> bool:
        """Suppress only the cancellation that this object caused."""
        if self._is_watching and not (self._cycle is not None and self._cycle.is_complete):
            self.stop()
        if self.has_disconnected and self._task.cancelling() and self._task.uncancel() == 0:
            return kind is asyncio.CancelledError
        return False

    def stop(self) -> None:
        """The response is about to be complete: cancel nothing from now on."""
        if self._is_watching:
            self._is_watching = False
            self._watch(None)

    def _cancel(self) -> None:
        self.has_disconnected = True
        self._task.cancel()
