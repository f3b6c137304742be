"""The decision log: one JSON line per request, written by a background thread so that no request waits for the disk.
Lines are rendered several at a time, on the event loop: it would have to wait for the thread to do it.

Lines that begin with `event` are not decisions: feedback of clients, and the texts of requests where the operator keeps
them.
"""

import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from gateway.decision import Decision, Mirrored
from gateway.telemetry.decision_json import DecisionLines, line_of
from gateway.telemetry.log_rotation import RotatingFile
from twolane.process.errors import ConfigurationError

MAX_WAITING: Final = 10_000
_AT_ONCE: Final = 32  # decisions that are rendered together
_EVERY_S: Final = 0.1  # waking the thread for every line would cost more than writing it


class DecisionLog:
    """An Observer. If the disk cannot keep up, lines are dropped and counted."""

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
        self._new: deque[Decision | dict[str, Any]] = deque()  # append and popleft are atomic
        self._waiting: list[bytes] = []  # lines to write
        self._lock = threading.Lock()  # keeps lines in order
        self._drop = on_drop
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="decision log", daemon=True)
        self._thread.start()

    def decided(self, decision: Decision) -> None:
        """See `ports.Observer`."""
        self._new.append(decision)
        if len(self._new) >= _AT_ONCE:
            self._render()

    def record(self, event: dict[str, Any]) -> None:
        """Write an event: a JSON object whose first key is `event`."""
        self._new.append(event)
        self._render()

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

    def _render(self) -> None:
        """Make lines of what is new; those that the disk is too slow for are dropped, and what cannot be encoded."""
        with self._lock:
            new = [self._new.popleft() for _ in range(len(self._new))]
            lines = [line for each in new if (line := self._line(each))]
            lines = lines[: max(0, MAX_WAITING - len(self._waiting))]
            self._waiting += lines
        if len(lines) < len(new):
            self._drop(len(new) - len(lines))

    def _line(self, entry: Decision | dict[str, Any]) -> bytes:
        return self._lines.line(entry) if isinstance(entry, Decision) else line_of(entry)

    def _append(self) -> None:
        """One write for all waiting lines; a full disk drops lines."""
        self._render()
        with self._lock:
            lines, self._waiting = self._waiting, []
        if not lines:
            return
        try:
            self._file.append(b"".join(lines))
        except OSError:
            self._drop(len(lines))
