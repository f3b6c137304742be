"""JSON logging: one line per call, with the request's trace id, and without blocking requests."""

import io
import logging
import threading
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest

from twolane.process import json_log
from twolane.process.json_log import TRACE_ID, json_lines


def test_a_line_has_its_fields_and_the_trace_of_its_context() -> None:
    written = io.StringIO()
    with json_lines(written):
        token = TRACE_ID.set("abc")
        logging.getLogger("twolane.test").info("request %d", 7, extra={"fields": {"ms": 1.5, "path": Path("x")}})
        TRACE_ID.reset(token)
        logging.getLogger("twolane.test").warning("no request")
    first, second = [orjson.loads(line) for line in written.getvalue().splitlines()]
    assert (first["level"], first["logger"], first["message"]) == ("info", "twolane.test", "request 7")
    assert (first["trace_id"], first["ms"], first["path"]) == ("abc", 1.5, "x")
    assert datetime.fromisoformat(first["time"]).tzinfo == UTC
    assert (second["level"], second["trace_id"]) == ("warning", None)


def test_a_defect_is_one_line_with_its_traceback() -> None:
    written = io.StringIO()
    with json_lines(written):
        try:
            raise RuntimeError("a\nb")
        except RuntimeError:
            logging.getLogger("twolane.worker").exception("failed %s", "here")
    (line,) = written.getvalue().splitlines()
    assert "RuntimeError: a" in orjson.loads(line)["exception"]


def test_a_reader_that_stands_still_costs_lines_and_no_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue is bounded, and putting into it never waits."""
    monkeypatch.setattr(json_log, "MAX_QUEUED", 3)
    monkeypatch.setattr(json_log, "FLUSH_S", 0.05)
    released = threading.Event()

    class Still(io.StringIO):
        def write(self, _: str) -> int:
            released.wait(600)
            return 0

    with json_lines(Still()):
        for number in range(50):
            logging.getLogger("twolane.worker").warning("%d", number)
    released.set()  # only now: a writer that waited for the reader would not get here


def test_outside_nothing_is_changed() -> None:
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    with json_lines(io.StringIO()):
        assert root.handlers != before[1]
    assert (root.level, root.handlers) == before
