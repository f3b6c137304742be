"""web.admin: weights come and go when told to, and what stands between is told."""

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
from tests.worker.serving import CHAT, MODEL, toy_model, toy_settings, toy_words, until

pytestmark = pytest.mark.anyio
HELLO = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}]}


class Both:
    """A worker's two applications."""

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
async def both(load: Any = None, *, cold: bool = True, **settings: Any) -> AsyncIterator[Both]:
    def load_toy(_settings: Settings) -> tuple[Tokenization, DiffusionModel]:
        return toy_words(), toy_model()

    worker = build_worker(toy_settings(admin_port=0, cold=cold, **settings), load or load_toy)
    worker.serving_state.engine.start(cold=cold)
    made = Both(worker)
    try:
        async with made.public, made.admin:
            yield made
    finally:
        await worker.serving_state.engine.close()


async def test_weights_come_when_asked_for_and_go_and_come_again() -> None:
    """In between requests get their 503 at once."""
    async with both() as it:
        assert (await it.state())["state"] == "cold"
        for _ in range(2):
            refused = await it.public.post(CHAT, json=HELLO)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_resident")
            loaded = await it.post("load")
            assert (loaded.status_code, loaded.json()["state"]) == (200, "ready")
            assert (await it.post("load")).status_code == 200  # what is there already is there
            assert (await it.public.post(CHAT, json=HELLO)).status_code == 200
            assert (await it.admin.get("/health")).status_code == 200
            gone = await it.post("unload", timeout_s=1)
            assert (gone.status_code, gone.json()["state"], gone.json()["kv_bytes"]) == (200, "cold", 0)
            assert (await it.public.get("/health")).status_code == 503


async def test_the_state_tells_what_memory_is_used_for() -> None:
    """Health's fields and more."""
    async with both() as it:
        before = await it.state()
        await it.post("load")
        await it.public.post(CHAT, json=HELLO)
        after = await it.state()
    assert (before["parameters"], before["dtype"]) == (None, None)
    assert (after["dtype"], after["pressure"], after["running"]) == ("float32", "none", 0)
    assert after["retained_contexts"] == 1
    assert set(after) >= {"state", "model", "memory", "kv_bytes", "version"}


async def test_an_unload_lets_what_runs_finish() -> None:
    """And refuses what comes meanwhile."""

    def load(_settings: Settings) -> tuple[Tokenization, DiffusionModel]:
        return toy_words(), toy_model(answer="y" * 60, seconds_per_pass=0.05)

    async with both(load, cold=False) as it:
        engine = it.worker.serving_state.engine
        await engine.ready()
        running = asyncio.create_task(it.public.post(CHAT, json=HELLO))
        await until(lambda: engine.status().running == 1)
        leaving = asyncio.create_task(it.post("unload", timeout_s=120))
        await until(lambda: engine.status().state == "evicting")
        assert (await it.public.post(CHAT, json=HELLO)).json()["error"]["code"] == "not_resident"
        assert (await running).json()["choices"][0]["message"]["content"] == "y" * 60
        assert (await leaving).json()["state"] == "cold"


async def test_weights_that_cannot_be_loaded_are_told_and_tried_again() -> None:
    """The worker stays, cold."""
    tries: list[int] = []

    def load(_settings: Settings) -> tuple[Tokenization, DiffusionModel]:
        tries.append(1)
        if len(tries) == 1:
            raise CheckpointMissing("nothing there")
        return toy_words(), toy_model()

    async with both(load) as it:
        failed = await it.post("load")
        assert (failed.status_code, failed.json()["error"]["code"]) == (500, "checkpoint_missing")
        assert (await it.state())["state"] == "cold"
        assert (await it.post("load")).json()["state"] == "ready"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("unload", {"timeout_s": -1}, "timeout_s"),
        ("unload", {"soon": 1}, "soon"),
        ("load", {"timeout_s": 1}, "timeout_s"),
    ],
)
async def test_what_makes_no_sense_is_refused_by_name(path: str, body: dict[str, Any], param: str) -> None:
    """As everywhere."""
    async with both() as it:
        answer = await it.post(path, **body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_the_two_ports_have_nothing_in_common_but_the_probes() -> None:
    """Nobody unloads through the public port, nobody chats through the other."""
    async with both() as it:
        assert (await it.public.post("/admin/load")).status_code == 404
        assert (await it.admin.post(CHAT, json=HELLO)).status_code == 404
        assert (await it.admin.get("/admin/load")).status_code == 405
        for path in ("/metrics", "/live"):
            assert (await it.public.get(path)).status_code == (await it.admin.get(path)).status_code == 200


async def test_keys_hold_on_both_ports(tmp_path: Path) -> None:
    """The probes are open."""
    keys = tmp_path / "keys"
    keys.write_text(f"me sha256:{hashlib.sha256(b'long').hexdigest()}\n")
    async with both(keys_file=keys) as it:
        assert (await it.post("load")).status_code == 401
        assert (await it.admin.get("/admin/state", headers={"authorization": "Bearer long"})).status_code == 200
        assert (await it.admin.get("/live")).status_code == 200


async def test_fewer_requests_advance_together_as_long_as_told_also_after_a_reload() -> None:
    async with both(cold=False, max_num_seqs=4) as it:
        await it.worker.serving_state.engine.ready()
        assert (await it.post("limits", max_num_seqs=1)).status_code == 200
        await until(lambda: it.worker.serving_state.engine.status().max_num_seqs == 1)
        answers = await asyncio.gather(*(it.public.post(CHAT, json=HELLO) for _ in range(3)))
        assert [answer.status_code for answer in answers] == [200] * 3
        await it.post("unload")
        await it.post("load")
        await until(lambda: it.worker.serving_state.engine.status().max_num_seqs == 1)
        await it.post("limits", max_num_seqs=4)
        await until(lambda: it.worker.serving_state.engine.status().max_num_seqs == 4)


@pytest.mark.parametrize("body", [{}, {"max_num_seqs": 0}, {"max_num_seqs": 5}, {"max_num_seqs": "2"}, {"rows": 2}])
async def test_a_limit_beyond_what_the_worker_has_is_refused_by_name(body: dict[str, Any]) -> None:
    async with both(max_num_seqs=4) as it:
        refused = await it.post("limits", **body)
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] in ("max_num_seqs", "rows")
