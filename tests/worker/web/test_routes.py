"""Routes: models, metrics, health, and errors for unknown paths."""

import threading

import httpx
import pytest

from diffusion_worker.app import build_worker
from diffusion_worker.models.interface import DiffusionModel
from diffusion_worker.settings import Settings
from diffusion_worker.web.serving_state import Tokenization
from tests.worker.serving import CHAT, MODEL, READ, serving, toy_model, toy_settings, toy_words

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "unknown_url"),
        ("POST", "/v1/responses", 404, "unknown_url"),
        ("POST", "/v1/embeddings", 404, "unknown_url"),
        ("GET", "/docs", 404, "unknown_url"),
        ("GET", "/openapi.json", 404, "unknown_url"),
        ("GET", CHAT, 405, "method_not_allowed"),
        ("GET", "/v1/completions", 405, "method_not_allowed"),
        ("POST", "/health", 405, "method_not_allowed"),
        ("OPTIONS", CHAT, 405, "method_not_allowed"),
        ("GET", "/v1/models/nothing", 404, "model_not_found"),
    ],
)
async def test_unknown_paths_and_methods_return_openais_error_body(
    method: str, path: str, status: int, code: str
) -> None:
    async with serving(toy_model()) as served:
        answer = await served.client.request(method, path, content=b"{}")
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["type"]) == (status, code, "invalid_request_error")
        assert error["message"]
        assert (status != 405) or answer.headers["allow"] in ("GET", "POST")


@pytest.mark.parametrize(
    ("requested", "expected"), [(MODEL, MODEL), (READ, READ), ("diffusion", MODEL), ("diffusion:autoregressive", READ)]
)
async def test_a_model_is_found_by_id_and_alias(requested: str, expected: str) -> None:
    """The entry is the same as in the list."""
    async with serving(toy_model()) as served:
        assert (await served.client.get(f"/v1/models/{requested}")).json()["id"] == expected


async def test_metrics_have_the_prometheus_format() -> None:
    async with serving(toy_model()) as served:
        await served.ask()
        answer = await served.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert 'gen_ai_server_request_duration_seconds_count{gen_ai_request_model="toy"} 1.0' in answer.text
    assert "twolane_worker_sealed_blocks_total 1.0" in answer.text


async def test_while_weights_load_the_worker_is_live_and_not_ready() -> None:
    """Requests receive 503 immediately, and the refusal is counted."""
    may_load = threading.Event()

    def load(_settings: Settings) -> tuple[Tokenization, DiffusionModel]:
        may_load.wait(500)
        return toy_words(), toy_model()

    worker = build_worker(toy_settings(), load)
    worker.serving_state.engine.start()
    transport = httpx.ASGITransport(app=worker.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://worker") as client:
        try:
            assert (await client.get("/live")).status_code == 200
            health = await client.get("/health")
            assert (health.status_code, health.json()["state"]) == (503, "loading")
            assert (await client.get("/v1/models")).json()["data"][0]["twolane"]["context_length"] is None
            refused = await client.post(CHAT, json={"model": MODEL, "messages": [{"role": "user", "content": "x"}]})
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_resident")
            assert int(refused.headers["retry-after"]) >= 1
            assert 'twolane_worker_refused_total{reason="not_resident"} 1.0' in (await client.get("/metrics")).text
            may_load.set()
            await worker.serving_state.engine.ready()
            assert (await client.get("/health")).status_code == 200
        finally:
            may_load.set()
            await worker.serving_state.engine.close()


async def test_every_decoding_mode_is_a_model() -> None:
    async with serving(toy_model(answer="y")) as served:
        models = (await served.client.get("/v1/models")).json()["data"]
        modes = {model["id"]: model["twolane"]["decoding_mode"] for model in models}
        assert modes == {
            MODEL: "diffusion",
            f"{MODEL}:verified": "verified",
            f"{MODEL}:autoregressive": "autoregressive",
        }


async def test_a_reduced_context_length_is_published_and_enforced() -> None:
    """An answer without max_tokens fits in; a longer prompt is refused with the limit."""
    async with serving(toy_model(answer="y" * 90), max_context=50) as served:
        assert (await served.client.get(f"/v1/models/{MODEL}")).json()["twolane"]["context_length"] == 50
        answer = (await served.ask("x" * 27)).json()
        assert answer["choices"][0] | {"message": 0} == {
            "index": 0,
            "message": 0,
            "logprobs": None,
            "finish_reason": "length",
        }
        assert answer["usage"]["total_tokens"] == 50
        error = (await served.ask("x" * 60)).json()["error"]
        assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")
        assert "50 tokens" in error["message"]
