"""Invalid requests: each gets one error in OpenAI's format, and the next request is served."""

import io
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from twolane.process.json_log import json_lines

pytestmark = pytest.mark.anyio

POLICY = """
version: 1
targets:
  only: {kind: openai, engine: openai, url: "%s", model: m, location: in_cluster}
routes:
  - {name: default, use: only}
"""


@pytest.fixture
async def gateway(fake: Any, serving: Any) -> AsyncIterator[Any]:
    """A gateway with a body limit of 10,000 bytes."""
    async with fake() as server, serving(POLICY % server.url, max_body_bytes=10_000) as running:
        yield running


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        (b"{nope", 400, "invalid_json", None),
        (b"", 400, "invalid_json", None),
        (b"[" * 9000, 400, "invalid_json", None),
        ({"model": "auto", "messages": []}, 400, "invalid_value", "messages"),
        ({"model": "auto", "messages": "hi"}, 400, "invalid_value", "messages"),
        ({"messages": [{"role": "user", "content": "hi"}]}, 400, "invalid_value", "model"),
        ({"model": "gpt-9", "messages": [{"role": "user", "content": "hi"}]}, 404, "model_not_found", "model"),
        (b" " * 10_001, 413, "request_too_large", None),
        (b" " * 20_000_000, 413, "request_too_large", None),
    ],
)
async def test_an_invalid_body_gets_a_specific_error(
    gateway: Any, body: Any, status: int, code: str, param: Any
) -> None:
    got, headers, told = await gateway.ask(body)
    assert got == status
    assert set(told["error"]) == {"message", "type", "param", "code"}
    assert (told["error"]["code"], told["error"]["param"]) == (code, param)
    assert told["error"]["type"] == "invalid_request_error"
    assert headers["x-request-id"].startswith("req_")
    assert (await gateway.ask())[0] == 200


async def test_a_body_of_unknown_size_is_refused_at_the_limit(gateway: Any) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 1000

    url = f"{gateway.url}/v1/chat/completions"
    async with gateway.client.post(url, data=endless()) as response:
        assert response.status == 413
    assert (await gateway.ask())[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("POST", "/v1/models", 405, "method_not_allowed"),
        ("POST", "/health", 405, "method_not_allowed"),
        ("DELETE", "/live", 405, "method_not_allowed"),
        ("POST", "/v1/audio/speech", 404, "unknown_url"),
        ("GET", "/v1/models/gpt-9", 404, "model_not_found"),
        ("GET", "/nothing", 404, "unknown_url"),
        ("GET", "/admin/decisions/req_1", 404, "unknown_url"),
        ("GET", "/metrics", 404, "unknown_url"),
    ],
)
async def test_other_paths_are_refused_in_openai_s_format(
    gateway: Any, method: str, path: str, status: int, code: str
) -> None:
    """Admin routes are not on the public port."""
    async with gateway.client.request(method, gateway.url + path) as response:
        assert response.status == status
        assert (await response.json())["error"]["code"] == code


async def test_models_lists_auto_and_every_target_with_capabilities(gateway: Any) -> None:
    async with gateway.client.get(f"{gateway.url}/v1/models") as response:
        listed = await response.json()
    assert [entry["id"] for entry in listed["data"]] == ["auto", "only"]
    assert listed["data"][1]["twolane"]["capabilities"]["json_schema"] == "guaranteed"
    async with gateway.client.get(f"{gateway.url}/v1/models/only") as response:
        assert await response.json() == listed["data"][1]


@pytest.mark.parametrize("path", ["/health", "/live"])
async def test_probes_are_answered(gateway: Any, path: str) -> None:
    async with gateway.client.get(gateway.url + path) as response:
        assert response.status == 200
        assert (await response.json())["status"] == "ok"


async def test_a_line_of_the_json_log_carries_the_trace_of_its_request(
    gateway: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the request ends in a defect; a request without a trace has none."""

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("a bug")

    written = io.StringIO()
    with json_lines(written):
        monkeypatch.setattr("gateway.upstreams.openai.body_for", fail)
        await gateway.ask(traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")
        await gateway.ask()
    failed = [line for line in map(orjson.loads, written.getvalue().splitlines()) if "RuntimeError: a bug" in str(line)]
    assert [line["trace_id"] for line in failed] == ["0af7651916cd43dd8448eb211c80319c", None]
    assert {line["logger"] for line in failed} == {"gateway"}
