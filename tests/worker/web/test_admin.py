"""Admin port: loading and unloading weights, state and limits."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from diffusion_worker.app import Worker, build_worker
from diffusion_worker.errors import CheckpointMissing
from diffusion_worker.models.interface import DiffusionModel
from diffusion_worker.settings import Settings
from diffusion_worker.web.serving_state import Tokenization
from tests.worker.pacing import held
from tests.worker.serving import CHAT, MODEL, toy_model, toy_settings, toy_words, until

pytestmark = pytest.mark.anyio
HELLO = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}]}


class Ports:
    """Clients of the public and the admin port."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.public = _client(worker.app)
        self.admin = _client(worker.admin)

    async def post(self, path: str, **body: Any) -> httpx.Response:
        return await self.admin.post(f"/admin/{path}", json=body)

    async def state(self) -> Any:
        return (await self.admin.get("/admin/state")).json()


def _client(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://worker", timeout=120)


@contextlib.asynccontextmanager
async def ports(load: Any = None, *, cold: bool = True, **settings: Any) -> AsyncIterator[Ports]:
    def load_toy(_settings: Settings) -> tuple[Tokenization, DiffusionModel]:
        return toy_words(), toy_model()

    worker = build_worker(toy_settings(admin_port=0, cold=cold, **settings), load or load_toy)
    worker.serving_state.engine.start(cold=cold)
    result = Ports(worker)
    try:
        async with result.public, result.admin:
            yield result
    finally:
        await worker.serving_state.engine.close()


async def test_weights_can_be_loaded_unloaded_and_reloaded() -> None:
    """While they are unloaded, requests receive 503 immediately."""
    async with ports() as worker_ports:
        assert (await worker_ports.state())["state"] == "cold"
        for _ in range(2):
            refused = await worker_ports.public.post(CHAT, json=HELLO)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_resident")
            loaded = await worker_ports.post("load")
            assert (loaded.status_code, loaded.json()["state"]) == (200, "ready")
            assert (await worker_ports.post("load")).status_code == 200  # loading again has no effect
            assert (await worker_ports.public.post(CHAT, json=HELLO)).status_code == 200
            assert (await worker_ports.admin.get("/health")).status_code == 200
            gone = await worker_ports.post("unload", timeout_s=1)
            assert (gone.status_code, gone.json()["state"], gone.json()["kv_bytes"]) == (200, "cold", 0)
            assert (await worker_ports.public.get("/health")).status_code == 503


async def test_the_state_reports_memory_use() -> None:
    """With all fields of /health."""
    async with ports() as worker_ports:
        before = await worker_ports.state()
        await worker_ports.post("load")
        await worker_ports.public.post(CHAT, json=HELLO)
        after = await worker_ports.state()
    assert (before["parameters"], before["dtype"]) == (None, None)
    assert (after["dtype"], after["pressure"], after["running"]) == ("float32", "none", 0)
    assert after["retained_contexts"] == 1
    assert set(after) >= {"state", "model", "memory", "kv_bytes", "version"}


async def test_an_unload_waits_for_running_requests() -> None:
    """New requests are refused meanwhile."""

    toy = toy_model(answer="y" * 60)
    async with ports(lambda _settings: (toy_words(), toy), cold=False) as worker_ports:
        engine = worker_ports.worker.serving_state.engine
        await engine.ready()
        with held(toy):
            running = asyncio.create_task(worker_ports.public.post(CHAT, json=HELLO))
            await until(lambda: engine.status().running == 1)
            leaving = asyncio.create_task(worker_ports.post("unload", timeout_s=120))
            await until(lambda: engine.status().state == "evicting")
            assert (await worker_ports.public.post(CHAT, json=HELLO)).json()["error"]["code"] == "not_resident"
        assert (await running).json()["choices"][0]["message"]["content"] == "y" * 60
        assert (await leaving).json()["state"] == "cold"


async def test_a_failed_load_is_reported_and_can_be_retried() -> None:
    """The worker stays up without weights."""
    tries: list[int] = []

    def load(_settings: Settings) -> tuple[Tokenization, DiffusionModel]:
        tries.append(1)
        if len(tries) == 1:
            raise CheckpointMissing("nothing there")
        return toy_words(), toy_model()

    async with ports(load) as worker_ports:
        failed = await worker_ports.post("load")
        assert (failed.status_code, failed.json()["error"]["code"]) == (500, "checkpoint_missing")
        assert (await worker_ports.state())["state"] == "cold"
        assert (await worker_ports.post("load")).json()["state"] == "ready"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("unload", {"timeout_s": -1}, "timeout_s"),
        ("unload", {"soon": 1}, "soon"),
        ("load", {"timeout_s": 1}, "timeout_s"),
    ],
)
async def test_invalid_fields_are_refused_by_name(path: str, body: dict[str, Any], param: str) -> None:
    async with ports() as worker_ports:
        answer = await worker_ports.post(path, **body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_both_ports_share_only_the_probes() -> None:
    """Admin routes are not on the public port, and generation routes are not on the admin port."""
    async with ports() as worker_ports:
        assert (await worker_ports.public.post("/admin/load")).status_code == 404
        assert (await worker_ports.admin.post(CHAT, json=HELLO)).status_code == 404
        assert (await worker_ports.admin.get("/admin/load")).status_code == 405
        for path in ("/metrics", "/live"):
            assert (
                (await worker_ports.public.get(path)).status_code
                == (await worker_ports.admin.get(path)).status_code
                == 200
            )


async def test_both_ports_require_api_keys(tmp_path: Path) -> None:
    """Except for the probes."""
    keys = tmp_path / "keys"
    digest, app = hashlib.sha256(b"long").hexdigest(), hashlib.sha256(b"app").hexdigest()
    keys.write_text(f"me sha256:{digest} scopes=admin\napp sha256:{app}\n")
    async with ports(keys_file=keys) as worker_ports:
        assert (await worker_ports.post("load")).status_code == 401
        for path in ("/admin/state", "/metrics"):
            refused = await worker_ports.admin.get(path, headers={"authorization": "Bearer app"})
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "permission_denied")
        for path in ("/v1/models", "/metrics"):
            allowed = await worker_ports.public.get(path, headers={"authorization": "Bearer app"})
            assert allowed.status_code == (200 if path == "/v1/models" else 403)
        assert (
            await worker_ports.admin.get("/admin/state", headers={"authorization": "Bearer long"})
        ).status_code == 200
        assert (await worker_ports.admin.get("/live")).status_code == 200


async def test_the_batch_limit_applies_until_changed_and_survives_a_reload() -> None:
    async with ports(cold=False, max_num_seqs=4) as worker_ports:
        await worker_ports.worker.serving_state.engine.ready()
        assert (await worker_ports.post("limits", max_num_seqs=1)).status_code == 200
        await until(lambda: worker_ports.worker.serving_state.engine.status().max_num_seqs == 1)
        answers = await asyncio.gather(*(worker_ports.public.post(CHAT, json=HELLO) for _ in range(3)))
        assert [answer.status_code for answer in answers] == [200] * 3
        await worker_ports.post("unload")
        await worker_ports.post("load")
        await until(lambda: worker_ports.worker.serving_state.engine.status().max_num_seqs == 1)
        await worker_ports.post("limits", max_num_seqs=4)
        await until(lambda: worker_ports.worker.serving_state.engine.status().max_num_seqs == 4)


async def test_a_body_that_is_too_large_is_refused() -> None:
    async with ports() as worker_ports:
        answer = await worker_ports.post("limits", max_num_seqs=1, more="x" * 5000)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")


@pytest.mark.parametrize("body", [{}, {"max_num_seqs": 0}, {"max_num_seqs": 5}, {"max_num_seqs": "2"}, {"rows": 2}])
async def test_a_limit_above_the_startup_value_is_refused_by_name(body: dict[str, Any]) -> None:
    async with ports(max_num_seqs=4) as worker_ports:
        refused = await worker_ports.post("limits", **body)
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] in ("max_num_seqs", "rows")
