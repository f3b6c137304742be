"""Request log: one line of the JSON log per request, for every outcome."""

import io

import orjson
import pytest

from tests.worker.serving import serving, toy_model
from twolane.process.json_log import json_lines

SENDER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"


@pytest.mark.anyio
async def test_every_request_is_logged_without_its_text() -> None:
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
