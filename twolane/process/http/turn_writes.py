"""Writes of several connections that are made in a row, at the end of a turn of the event loop.

A write to a socket runs through the whole network stack, up to waking the process at the other end. Within a request it
takes the interpreter's code and data out of the processor's caches twice; behind one another, writes share the caches,
and the other end is woken once for several of them.
"""

import asyncio
import logging
from collections.abc import Callable

_log = logging.getLogger("twolane.http")


class TurnWrites:
    """The writes of one event loop that wait for the end of its turn."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: list[Callable[[], None]] = []

    def add(self, write: Callable[[], None], loop: asyncio.AbstractEventLoop) -> None:
        """Call `write` when this turn is over."""
        if not self._waiting:
            loop.call_soon(self._make)
        self._waiting.append(write)

    def _make(self) -> None:
        waiting, self._waiting = self._waiting, []
        for write in waiting:
            try:
                write()
            except Exception:  # noqa: BLE001 - one connection must not keep the bytes of the others back
                _log.exception("a write failed")
