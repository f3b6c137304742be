"""The decision log: one JSON line per request, written by a thread of its own so that no request waits for a disk."""

import queue
import threading
from pathlib import Path
from typing import Final

import orjson

from gateway.errors import BadSetting
from gateway.records import Decision
from gateway.telemetry.documents import document_of

MAX_WAITING: Final = 10_000


class DecisionLog:
    """An Observer. When the disk is slower than the requests, lines are dropped and counted, never waited for."""

    def __init__(self, path: Path) -> None:
        """Raises BadSetting if the file cannot be opened."""
        try:
            self._file = path.open("ab", buffering=0)
        except OSError as fault:
            raise BadSetting(f"TWOLANE_DECISION_LOG: cannot write {path}: {fault.strerror}") from fault
        self._waiting: queue.SimpleQueue[Decision | None] = queue.SimpleQueue()
        self.dropped = 0
        self._thread = threading.Thread(target=self._write, name="decision log", daemon=True)
        self._thread.start()

    def decided(self, decision: Decision) -> None:
        """See `ports.Observer`."""
        if self._waiting.qsize() >= MAX_WAITING:
            self.dropped += 1
        else:
            self._waiting.put(decision)

    def close(self) -> None:
        """Write what is waiting, then close the file."""
        self._waiting.put(None)
        self._thread.join()
        self._file.close()

    def _write(self) -> None:
        is_open = True
        while is_open:
            batch = [self._waiting.get()]
            while not self._waiting.empty():
                batch.append(self._waiting.get())
            is_open = None not in batch
            self._append([decision for decision in batch if decision is not None])

    def _append(self, decisions: list[Decision]) -> None:
        """One write for all that waited; a full disk costs lines, not requests."""
        lines = [orjson.dumps(document_of(decision), option=orjson.OPT_APPEND_NEWLINE) for decision in decisions]
        try:
            self._file.write(b"".join(lines))
        except OSError:
            self.dropped += len(lines)
