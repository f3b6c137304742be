"""The decision log: one JSON line per request, written by a background thread so that no request waits for the disk.
Lines are rendered on the event loop: it would have to wait for the thread to do it.

Lines that begin with `event` are not decisions: feedback of clients, and the texts of requests where the operator keeps
them.
"""

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from gateway.decision import Decision, Mirrored
from gateway.telemetry.decision_json import DecisionLines, line_of
from gateway.telemetry.log_rotation import RotatingFile
from twolane.process.errors import ConfigurationError

MAX_WAITING: Final = 10_000
_EVERY_S: Final = 0.1  # waking the thread for every line would cost more than writing it


class DecisionLog:
    """A BatchObserver. If the disk cannot keep up, lines are dropped and counted."""

    def __init__(
        self,
        path: Path,
        on_drop: Callable[[int], None] = lambda _lines: None,
        *,
        max_bytes: int = 0,
        keep: int = 1,
        replica: str | None = None,
    ) -> None:
        """Raises ConfigurationError if the file cannot be opened. `on_drop` receives the number of dropped lines, on
        any thread; every decision names its `replica`; see `RotatingFile` for the other arguments."""
        try:
            self._file = RotatingFile(path, max_bytes=max_bytes, keep=keep)
        except OSError as fault:
            raise ConfigurationError(
                f"--decision-log (TWOLANE_DECISION_LOG): cannot write {path}: {fault.strerror}"
            ) from fault
        self._lines = DecisionLines(replica)
        self._waiting: list[bytes] = []  # lines to write, in texts of one or more
        self._count = 0  # of these lines
        self._lock = threading.Lock()  # of both
        self._drop = on_drop
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="decision log", daemon=True)
        self._thread.start()

    def decided_all(self, decisions: Iterable[Decision]) -> None:
        """See `BatchObserver`."""
        made = list(decisions)
        self._put(*self._lines.render(made), len(made))

    def record(self, event: dict[str, Any]) -> None:
        """Write an event: a JSON object whose first key is `event`."""
        line = line_of(event)
        self._put(line, 1 if line else 0, 1)

    def mirrored(self, mirrored: Mirrored) -> None:
        """Shadows are not logged."""

    def close(self) -> None:
        """Write the waiting lines, then close the file."""
        self._closing.set()
        self._thread.join()
        self._file.close()

    def _run(self) -> None:
        while not self._closing.wait(_EVERY_S):
            self._append()
        self._append()

    def _put(self, text: bytes, count: int, wanted: int) -> None:
        """Let the thread write these lines; those that the disk is too slow for are dropped, as what has no line is."""
        with self._lock:
            room = max(0, MAX_WAITING - self._count)
            if count > room:
                text, count = b"".join(text.splitlines(keepends=True)[:room]), room
            self._waiting.append(text)
            self._count += count
        if count < wanted:
            self._drop(wanted - count)

    def _append(self) -> None:
        """One write for all waiting lines; a full disk drops lines."""
        with self._lock:
            texts, self._waiting = self._waiting, []
            count, self._count = self._count, 0
        if not count:
            return
        try:
            self._file.append(b"".join(texts))
        except OSError:
            self._drop(count)
