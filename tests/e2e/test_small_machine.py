"""A single machine with unloaded weights, little memory or a slow disk still serves requests. `test_demo.py` runs
without a network."""

import asyncio
import contextlib
import os
import re
import shutil
import statistics
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.gateway.serving import fake_server
from twolane.process.children import Child, Command
from twolane.process.flags import free_port

ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "checkpoints" / "twolane-tiny"
MEMINFO = Path("/proc/meminfo").read_text() if Path("/proc/meminfo").exists() else ""
ORDER = "Extract the order as JSON: hi, i need 3 red lamp for anna on monday"
ASKED = {
    "model": "auto",
    "seed": 1,
    "max_tokens": 96,
    "metadata": {"task": "extraction"},
    "messages": [{"role": "user", "content": ORDER}],
}

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


class Machine:
    """A worker and a gateway with the offline policy, and a client."""

    def __init__(self, folder: Path, quality_url: str) -> None:
        self.folder = folder
        self.ports = {part: free_port() for part in ("worker", "worker_admin", "gateway", "admin")}
        self.quality_url = quality_url
        self.http = httpx.AsyncClient(timeout=120, trust_env=False)

    def url(self, part: str) -> str:
        return f"http://127.0.0.1:{self.ports[part]}"

    def worker(self, *line: str, checkpoint: Path = CHECKPOINT, before: tuple[str, ...] = ()) -> Child:
        ports = ("--port", str(self.ports["worker"]), "--admin-port", str(self.ports["worker_admin"]))
        return self._child("worker", "--checkpoint", str(checkpoint), "--threads", "1", *ports, *line, before=before)

    def gateway(self, **environment: str) -> Child:
        return self._child(
            "serve",
            TWOLANE_POLICY=str(ROOT / "policies" / "offline.yaml"),
            TWOLANE_PORT=str(self.ports["gateway"]),
            TWOLANE_ADMIN_PORT=str(self.ports["admin"]),
            WORKER_URL=self.url("worker"),
            QUALITY_URL=self.quality_url,
            **environment,
        )

    def _child(self, *line: str, before: tuple[str, ...] = (), **environment: str) -> Child:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TWOLANE_")}
        return Child(
            Command(
                name=line[0],
                line=(*before, sys.executable, "-m", "twolane", *line),
                environment={**kept, **environment},
                log=self.folder / f"{line[0]}.log",
            )
        )

    async def send(self, **more: Any) -> httpx.Response:
        return await self.http.post(f"{self.url('gateway')}/v1/chat/completions", json=ASKED | more)

    async def admin(self, action: str, **body: Any) -> None:
        (await self.http.post(f"{self.url('worker_admin')}/admin/{action}", json=body)).raise_for_status()

    async def until(self, target: str, reason: str | None = None) -> None:
        """Send requests until this target responds, for this reason: the gateway checks health once a second."""
        async with asyncio.timeout(120):
            while True:
                answer = await self.send()
                assert answer.status_code == 200, answer.text
                if (answer.headers["x-twolane-target"], answer.headers.get("x-twolane-fallback")) == (target, reason):
                    return
                await asyncio.sleep(0.1)


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    async with fake_server() as quality:
        made = Machine(tmp_path, quality.url)
        async with made.http:
            yield made


def test_the_offline_policy_has_local_targets_and_private_routes_only() -> None:
    policy = yaml.safe_load((ROOT / "policies" / "offline.yaml").read_text())
    assert {target["location"] for target in policy["targets"].values()} == {"in_cluster"}
    assert {route["private"] for route in policy["routes"]} == {True}
    assert all(":-http://127.0.0.1:" in target["url"] for target in policy["targets"].values())


async def test_other_targets_answer_until_the_weights_are_loaded(machine: Machine) -> None:
    async with machine.worker("--cold") as worker, machine.gateway() as gateway:
        await worker.serve(f"{machine.url('worker')}/live", within_s=300)
        await gateway.serve(f"{machine.url('gateway')}/health", within_s=300)
        await machine.until("quality", "not_resident")
        await machine.admin("load")
        await machine.until("careful")
        await machine.admin("unload", timeout_s=5)
        await machine.until("quality", "not_resident")


@pytest.mark.skipif(not shutil.which("unshare") or os.getuid() != 0, reason="needs root to replace /proc/meminfo")
async def test_a_worker_short_of_memory_stops_admission_until_memory_is_free(machine: Machine) -> None:
    """In the worker's mount namespace /proc/meminfo is a file of the test, which sets the free memory."""
    meminfo = machine.folder / "meminfo"
    meminfo.write_text(MEMINFO)
    with_meminfo = ("unshare", "--mount", "sh", "-c", f'mount --bind {meminfo} /proc/meminfo && exec "$@"', "sh")
    async with machine.worker(before=with_meminfo) as worker, machine.gateway() as gateway:
        await worker.serve(f"{machine.url('worker')}/health", within_s=300)
        await gateway.serve(f"{machine.url('gateway')}/health", within_s=300)
        await machine.until("careful")
        meminfo.write_text(re.sub(r"MemAvailable: +\d+", "MemAvailable: 1000", MEMINFO))  # in place
        await machine.until("quality", "overloaded")
        state = (await machine.http.get(f"{machine.url('worker_admin')}/admin/state")).json()
        assert (state["state"], state["pressure"]) == ("degraded", "admission")
        meminfo.write_text(MEMINFO)
        await machine.until("careful")


async def test_other_targets_answer_while_weights_load_from_a_slow_disk(machine: Machine) -> None:
    """The config is read from a pipe, so the test decides when it arrives."""
    slow = machine.folder / "twolane-tiny"
    shutil.copytree(CHECKPOINT, slow)
    config = (slow / "config.json").read_bytes()
    (slow / "config.json").unlink()
    os.mkfifo(slow / "config.json")
    async with machine.worker(checkpoint=slow) as worker, machine.gateway() as gateway:
        await worker.serve(f"{machine.url('worker')}/live", within_s=300)
        await gateway.serve(f"{machine.url('gateway')}/health", within_s=300)
        health = await machine.http.get(f"{machine.url('worker')}/health")
        assert (health.status_code, health.json()["state"]) == (503, "loading")
        refused = await machine.http.post(
            f"{machine.url('worker')}/v1/chat/completions", json=ASKED | {"model": "diffusion"}
        )
        assert refused.status_code == 503
        assert float(refused.headers["retry-after"]) > 0
        await machine.until("quality", "not_resident")
        feeding = asyncio.create_task(asyncio.to_thread(_feed, slow / "config.json", config))
        try:
            await machine.until("careful")
        finally:
            feeding.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await feeding


def _feed(pipe: Path, content: bytes) -> None:
    """A process that waits at the pipe receives the content; later ones find a file."""
    whole = pipe.with_suffix(".whole")
    whole.write_bytes(content)
    with pipe.open("wb") as end:
        end.write(content)
        whole.replace(pipe)


async def test_a_blocked_decision_log_slows_no_request(machine: Machine) -> None:
    log = machine.folder / "decisions.jsonl"
    os.mkfifo(log)
    reader = os.open(log, os.O_RDONLY | os.O_NONBLOCK)  # open, but never read: the writer blocks after 64 KiB
    try:
        async with machine.gateway(TWOLANE_DECISION_LOG=str(log)) as gateway:
            await gateway.serve(f"{machine.url('gateway')}/health", within_s=300)
            before_s = await median_s(machine, 30)
            await median_s(machine, 170)  # the pipe holds the lines of a hundred requests
            stuck_s = [await median_s(machine, 100)]
            while min(stuck_s) >= 10 * before_s and len(stuck_s) < 10:  # the machine was busy meanwhile
                stuck_s.append(await median_s(machine, 100))
            assert min(stuck_s) < 10 * before_s
    finally:
        os.close(reader)


async def median_s(machine: Machine, count: int) -> float:
    """How long a request takes, of so many."""
    took_s = []
    for _ in range(count):
        begin_s = asyncio.get_running_loop().time()
        assert (await machine.send()).status_code == 200
        took_s.append(asyncio.get_running_loop().time() - begin_s)
    return statistics.median(took_s)
