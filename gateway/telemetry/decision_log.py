"""The decision log: one JSON line per request, written by a background thread so that no request waits for the disk.

Lines that begin with `event` are not decisions: feedback of clients, and the texts of requests where the operator keeps
them.
"""

import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import orjson

from gateway.decision import Decision, Mirrored
from gateway.telemetry.decision_json import document_of
from gateway.telemetry.log_rotation import RotatingFile
from twolane.process.errors import ConfigurationError

MAX_WAITING: Final = 10_000
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
        self._replica = replica
        self._waiting: deque[Decision | dict[str, Any]] = deque()  # append and popleft are atomic
        self._drop = on_drop
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="decision log", daemon=True)
        self._thread.start()

    def decided(self, decision: Decision) -> None:
        """See `ports.Observer`."""
        if len(self._waiting) >= MAX_WAITING:
            self._drop(1)
        else:
            self._waiting.append(decision)

    def record(self, event: dict[str, Any]) -> None:
        """Write an event: a JSON object whose first key is `event`."""
        if len(self._waiting) >= MAX_WAITING:
            self._drop(1)
        else:
            self._waiting.append(event)

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

    def _append(self) -> None:
        """One write for all waiting lines; a full disk drops lines."""
        decisions = [self._waiting.popleft() for _ in range(len(self._waiting))]
        lines = [line for each in decisions if (line := _line(each, self._replica))]
        self._drop(len(decisions) - len(lines))
        if not lines:
            return
        try:
            self._file.append(b"".join(lines))
        except OSError:
            self._drop(len(lines))


def _line(entry: Decision | dict[str, Any], replica: str | None) -> bytes:
    """Empty if the entry cannot be encoded: that drops one line instead of ending the thread."""
    try:
        document = document_of(entry, replica) if isinstance(entry, Decision) else entry
        return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)
    except (orjson.JSONEncodeError, OverflowError, ValueError):
        return b""
