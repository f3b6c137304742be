"""The requests in progress of a server, so that the end of a drain ends each with a response instead of a cut."""

import asyncio
from types import TracebackType
from typing import Any


class RunningRequests:
    """`with running:` around the work of a request, in its own task.

    `end` cancels all of them. A handler that catches the cancellation calls `is_over`, and responds if it returns True.
    Requests that arrive when it `has_ended` must be refused.
    """

    def __init__(self) -> None:
        self.has_ended = False
        self.tasks: set[asyncio.Task[Any]] = set()  # whoever knows its task may add it, and discard it at the end

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, _: TracebackType | None) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.discard(task)

    def end(self) -> None:
        """The drain period is over. Repeating it has no effect: it would cancel responses that are being written."""
        if not self.has_ended:
            self.has_ended = True
            for task in self.tasks:
                task.cancel()

    def is_over(self) -> bool:
        """Whether `end` caused the cancellation that was just caught; if so, the task is no longer cancelled."""
        task = asyncio.current_task()
        if not self.has_ended or task is None:
            return False
        task.uncancel()
        return True
