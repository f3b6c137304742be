"""The decision log: one JSON line per request, written by a thread of its own so that no request waits for a disk."""

import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

import orjson

from gateway.decision import Decision, Mirrored
from gateway.telemetry.decision_json import document_of
from gateway.telemetry.log_rotation import RotatingFile
from twolane.process.errors import ConfigurationError

MAX_WAITING: Final = 10_000
_EVERY_S: Final = 0.1  # waking the thread for every line would cost more than the line


class DecisionLog:
    """An Observer. When the disk is slower than the requests, lines are dropped and counted, never waited for."""

    def __init__(
        self, path: Path, on_drop: Callable[[int], None] = lambda _lines: None, *, most_bytes: int = 0, keep: int = 1
    ) -> None:
        """Raises ConfigurationError if the file cannot be opened. `on_drop` is told how many lines were lost, on any
        thread; for the rest see `RotatingFile`."""
        try:
            self._file = RotatingFile(path, most_bytes=most_bytes, keep=keep)
        except OSError as fault:
            raise ConfigurationError(f"TWOLANE_DECISION_LOG: cannot write {path}: {fault.strerror}") from fault
        self._waiting: deque[Decision] = deque()  # appending and popping are atomic
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

    def mirrored(self, mirrored: Mirrored) -> None:
        """A line is a request, and this was none."""

    def close(self) -> None:
        """Write what is waiting, then close the file."""
        self._closing.set()
        self._thread.join()
        self._file.close()

    def _run(self) -> None:
        while not self._closing.wait(_EVERY_S):
            self._append()
        self._append()

    def _append(self) -> None:
        """One write for all that waited; a full disk costs lines, not requests."""
        decisions = [self._waiting.popleft() for _ in range(len(self._waiting))]
        lines = [line for line in map(_line, decisions) if line]
        self._drop(len(decisions) - len(lines))
        if not lines:
            return
        try:
            self._file.append(b"".join(lines))
        except OSError:
            self._drop(len(lines))


def _line(decision: Decision) -> bytes:
    """Empty for what JSON cannot say: that costs its line, and not the thread that writes all later ones."""
    try:
        return orjson.dumps(document_of(decision), option=orjson.OPT_APPEND_NEWLINE)
    except (orjson.JSONEncodeError, OverflowError, ValueError):
        return b""
