"""What the worker writes about itself: JSON, a line each, on stderr, by a thread of its own so that no request waits.

A line carries the trace of the request it speaks of. Knows no request.
"""

import contextlib
import logging
import queue
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import UTC, datetime
from logging.handlers import QueueHandler
from typing import Any, Final, TextIO

import orjson

MOST_WAITING: Final = 10_000
LEAVING_S: Final = 1.0
REQUESTS: Final = logging.getLogger("twolane.worker.requests")
TRACE_ID: ContextVar[str | None] = ContextVar("trace_id", default=None)


class JsonLines(logging.Formatter):
    """`told`, given as `extra`, becomes keys of the line."""

    def format(self, record: logging.LogRecord) -> str:
        """One line. What JSON cannot say is spelled out as text."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "trace_id": getattr(record, "trace_id", None),
            **getattr(record, "told", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


class _Waiting(QueueHandler):
    """Puts records in line; when that is full, they are lost: a blocked reader of stderr must not stop the worker."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        record.trace_id = TRACE_ID.get()  # on the thread and in the context that the line speaks of
        return record

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """There is nobody to tell."""


@contextlib.contextmanager
def json_lines(stream: TextIO) -> Iterator[None]:
    """Everything that is logged inside goes there as JSON, requests included."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    waiting: queue.Queue[logging.LogRecord | None] = queue.Queue(MOST_WAITING)
    writer = threading.Thread(target=_write, args=(waiting, handler), name="log", daemon=True)
    root, inlet = logging.getLogger(), _Waiting(waiting)
    before = root.level, REQUESTS.level
    root.addHandler(inlet)
    root.setLevel(logging.INFO)
    REQUESTS.setLevel(logging.INFO)
    writer.start()
    try:
        yield
    finally:
        root.removeHandler(inlet)
        root.setLevel(before[0])
        REQUESTS.setLevel(before[1])
        with contextlib.suppress(queue.Full):  # who reads our lines may stand still: we leave all the same
            waiting.put(None, timeout=LEAVING_S)
        writer.join(LEAVING_S)


def _write(waiting: "queue.Queue[logging.LogRecord | None]", handler: logging.Handler) -> None:
    while (record := waiting.get()) is not None:
        handler.handle(record)
