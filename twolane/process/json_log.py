"""Logging as JSON lines, written by a background thread so that no request waits for the stream.

A line carries the trace id of the request it belongs to. Lines are dropped when the reader of the stream stops reading.
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

from twolane.process.trace_context import Trace

MAX_QUEUED: Final = 10_000
FLUSH_S: Final = 1.0
TRACE_ID: ContextVar[str | None] = ContextVar("trace_id", default=None)
TRACE: ContextVar[Trace | None] = ContextVar("trace", default=None)  # in place of its id, which few requests log


class JsonLines(logging.Formatter):
    """`extra={"fields": {...}}` of a log call becomes keys of the line."""

    def format(self, record: logging.LogRecord) -> str:
        """One line. Values that JSON cannot represent are written as text."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "trace_id": getattr(record, "trace_id", None),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


class _Queue(QueueHandler):
    """Queues records; a full queue drops them: a blocked reader of stderr must not stop the process."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        trace = TRACE.get()  # read on the thread and in the context of the logging call
        record.trace_id = TRACE_ID.get() if trace is None else trace.hex_id
        return record

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Drop the line without a report."""


@contextlib.contextmanager
def json_lines(stream: TextIO) -> Iterator[None]:
    """Within the block, write all log records of level INFO and above to the stream as JSON."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    waiting: queue.Queue[logging.LogRecord | None] = queue.Queue(MAX_QUEUED)
    writer = threading.Thread(target=_write, args=(waiting, handler), name="log", daemon=True)
    root, inlet = logging.getLogger(), _Queue(waiting)
    before = root.level
    root.addHandler(inlet)
    root.setLevel(logging.INFO)
    writer.start()
    try:
        yield
    finally:
        root.removeHandler(inlet)
        root.setLevel(before)
        with contextlib.suppress(queue.Full):  # the reader may have stopped: end anyway
            waiting.put(None, timeout=FLUSH_S)
        writer.join(FLUSH_S)


def _write(waiting: "queue.Queue[logging.LogRecord | None]", handler: logging.Handler) -> None:
    while (record := waiting.get()) is not None:
        handler.handle(record)
