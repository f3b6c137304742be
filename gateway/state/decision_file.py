"""The recent decisions of all processes of one gateway: an SQLite file in a folder that they share.

It has the interface of `decision_stream`, for gateways without Redis. Only readers and a background task wait for it.
"""

import asyncio
import sqlite3
import threading
from pathlib import Path
from typing import Final

NAME: Final = "decisions.sqlite"
_WAIT_S: Final = 2.0  # for another process that writes
# Nothing is lost that matters if the machine stops: the file belongs to one run of the gateway.
_SETUP: Final = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = OFF;
CREATE TABLE IF NOT EXISTS decisions (number INTEGER PRIMARY KEY AUTOINCREMENT, entry BLOB NOT NULL);
"""
_DROP: Final = "DELETE FROM decisions WHERE number <= (SELECT max(number) FROM decisions) - ?"


class DecisionFileError(Exception):
    """The file cannot be read or written."""


class DecisionFile:
    """Entries have numbers that grow; `""` is before the first."""

    def __init__(self, folder: Path, *, capacity: int) -> None:
        self._path, self._capacity = folder / NAME, capacity
        self._connection: sqlite3.Connection | None = None
        self._one_at_a_time = threading.Lock()

    async def append(self, entries: list[bytes]) -> None:
        """Add entries; the oldest beyond the capacity are dropped. Raises DecisionFileError."""
        await asyncio.to_thread(self._append, entries)

    async def after(self, last: str, limit: int) -> list[tuple[str, bytes]]:
        """The newest entries after the number `last`, at most `limit`, oldest first. Raises DecisionFileError."""
        return await asyncio.to_thread(self._after, int(last or 0), limit)

    async def aclose(self) -> None:
        """Close the file. It is removed with its folder."""
        with self._one_at_a_time:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _append(self, entries: list[bytes]) -> None:
        with self._one_at_a_time:
            try:
                with self._opened() as file:
                    file.executemany("INSERT INTO decisions (entry) VALUES (?)", ((entry,) for entry in entries))
                    file.execute(_DROP, (self._capacity,))
            except sqlite3.Error as fault:
                raise DecisionFileError(str(fault)) from fault

    def _after(self, last: int, limit: int) -> list[tuple[str, bytes]]:
        with self._one_at_a_time:
            try:
                found = self._opened().execute(
                    "SELECT number, entry FROM decisions WHERE number > ? ORDER BY number DESC LIMIT ?", (last, limit)
                )
                return [(str(number), entry) for number, entry in reversed(found.fetchall())]
            except sqlite3.Error as fault:
                raise DecisionFileError(str(fault)) from fault

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            connection = sqlite3.connect(self._path, timeout=_WAIT_S, check_same_thread=False)
            connection.executescript(_SETUP)
            self._connection = connection
        return self._connection
