"""Middleware: common headers, API keys, and one response for every error."""

import hashlib
import re
from pathlib import Path

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from diffusion_worker.errors import OverCapacity
from diffusion_worker.web.middleware import Middleware
from tests.worker.serving import build, serving, toy_model

pytestmark = pytest.mark.anyio
KEY = "a-long-random-key"


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    """One holder."""
    path = tmp_path / "keys"
    path.write_text(f"gateway sha256:{hashlib.sha256(KEY.encode()).hexdigest()}\n")
    return path


async def test_a_request_id_is_returned_or_created() -> None:
    """For every response."""
    async with serving(toy_model()) as served:
        answer = await served.client.get("/live", headers={"x-request-id": "abc-1"})
        assert answer.headers["x-request-id"] == "abc-1"
        answer = await served.client.get("/nowhere")
        assert re.fullmatch(r"req_[0-9a-f]{24}", answer.headers["x-request-id"])


async def test_open_metrics_need_no_key_and_open_nothing_else(keys_file: Path) -> None:
    """For endpoint pickers, which cannot send a key."""
    async with serving(toy_model(), keys_file=keys_file, open_metrics=True) as served:
        assert "vllm:num_requests_waiting" in (await served.client.get("/metrics")).text
        assert (await served.client.get("/v1/models")).status_code == 401
    async with serving(toy_model(), keys_file=keys_file) as served:
        assert (await served.client.get("/metrics")).status_code == 401


@pytest.mark.parametrize("strange", ["x" * 129, "a b", "caf\xe9"])
async def test_an_unsafe_request_id_is_replaced(strange: str) -> None:
    """Only short printable ASCII is returned."""
    async with serving(toy_model()) as served:
        answer = await served.client.get("/live", headers={"x-request-id": strange.encode("latin-1")})
        assert answer.headers["x-request-id"].startswith("req_")


async def test_a_traceparent_is_returned() -> None:
    """Only if the request has one."""
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with serving(toy_model()) as served:
        assert (await served.client.get("/live", headers={"traceparent": trace})).headers["traceparent"] == trace
        assert "traceparent" not in (await served.client.get("/live")).headers


async def test_every_response_has_the_predicted_wait_once_measured() -> None:
    """Errors, health and answers; absent before the first step."""
    async with serving(toy_model()) as served:
        assert "x-twolane-worker-predicted-wait-ms" not in (await served.client.get("/live")).headers
        await served.ask()
        for answer in (await served.client.get("/live"), await served.client.get("/nowhere"), await served.ask()):
            assert int(answer.headers["x-twolane-worker-predicted-wait-ms"]) >= 0


async def test_with_keys_every_path_except_probes_requires_one(keys_file: Path) -> None:
    """Fails closed: unknown paths require a key too."""
    async with serving(toy_model(), keys_file=keys_file) as served:
        for path in ("/v1/models", "/metrics", "/nowhere", "/v1/chat/completions"):
            answer = await served.client.get(path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
            assert answer.headers["www-authenticate"] == "Bearer"
        for path in ("/live", "/health"):
            assert (await served.client.get(path)).status_code == 200


@pytest.mark.parametrize(
    ("authorization", "status"),
    [(f"Bearer {KEY}", 200), (f"bearer {KEY}", 200), (f"Basic {KEY}", 401), (f"Bearer {KEY}x", 401), ("Bearer", 401)],
)
async def test_only_a_known_bearer_key_is_accepted(keys_file: Path, authorization: str, status: int) -> None:
    """The scheme is case-insensitive, the key is not."""
    async with serving(toy_model(), keys_file=keys_file) as served:
        answer = await served.ask(headers={"authorization": authorization})
        assert answer.status_code == status


def client_of(app: object) -> httpx.AsyncClient:
    middleware = Middleware(app, build(toy_model()).serving_state)  # type: ignore[arg-type]
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=middleware), base_url="http://worker")


async def test_a_worker_error_has_openais_form() -> None:
    """Wherever it was raised."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise OverCapacity("full", retry_after_s=2.5)

    async with client_of(app) as client:
        answer = await client.get("/")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")
    assert answer.json()["error"]["code"] == "overloaded"


async def test_an_unexpected_error_returns_500_without_details(caplog: pytest.LogCaptureFixture) -> None:
    """The details are logged."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("secret detail")

    async with client_of(app) as client:
        answer = await client.get("/")
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")
    assert "secret" not in answer.text
    assert "secret detail" in caplog.text


async def test_after_the_response_has_started_no_error_response_is_sent() -> None:

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": False})
        raise OverCapacity("too late")

    async with client_of(app) as client:
        answer = await client.get("/")
    assert (answer.status_code, answer.text) == (200, "half")
