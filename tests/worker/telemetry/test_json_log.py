"""Logs: JSON lines that carry the trace of the request they speak of."""

import io
import logging
import threading

import orjson
import pytest

from diffusion_worker.telemetry import json_log
from diffusion_worker.telemetry.json_log import json_lines
from tests.worker.serving import serving, toy_model

SENDER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"


@pytest.mark.anyio
async def test_every_request_is_a_line_without_its_text() -> None:
    written = io.StringIO()
    with json_lines(written):
        async with serving(toy_model()) as served:
            await served.ask("zebra", headers={"traceparent": SENDER, "x-request-id": "req_7"})
            await served.ask("zebra", max_tokens=-1)
    lines = [orjson.loads(line) for line in written.getvalue().splitlines()]
    good, bad = [line for line in lines if line["message"] == "request"]
    assert (good["id"], good["trace_id"], good["error"]) == ("req_7", SENDER[3:35], None)
    assert good["completion_tokens"] > 0
    assert good["ms"] > 0
    assert (bad["error"], bad["trace_id"], bad["completion_tokens"]) == ("invalid_value", None, None)
    assert "zebra" not in written.getvalue()


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
    monkeypatch.setattr(json_log, "MOST_WAITING", 3)
    monkeypatch.setattr(json_log, "LEAVING_S", 0.05)
    released = threading.Event()

    class Still(io.StringIO):
        def write(self, _: str) -> int:
            released.wait(600)
            return 0

    with json_lines(Still()):
        for number in range(50):
            logging.getLogger("twolane.worker").warning("%d", number)
    released.set()  # only now: whoever waited for the reader would not have come here


def test_outside_nothing_is_changed() -> None:
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    with json_lines(io.StringIO()):
        assert root.handlers != before[1]
    assert (root.level, root.handlers) == before
