"""Workers on a real local Ray: when a replica is killed, clients of the gateway see no error, and clients of Ray itself
lose only the requests that this replica had."""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.deploy.ray.cluster import Cluster
from tests.deploy.standin import StandIn
from twolane.process.children import Child, twolane_command
from twolane.process.flags import free_port

pytestmark = [pytest.mark.anyio, pytest.mark.deploy, pytest.mark.slow, pytest.mark.timeout(1800)]

POLICY = """
version: 1
targets:
  fast: {{kind: worker, url: "{ray}", model: diffusion, location: in_cluster, retry: {{times: 2, max_share: 0.2}}}}
  quality: {{kind: openai, url: "{quality}", model: any, engine: openai, location: external}}
routes:
  - {{name: all, use: fast, deadline_ms: 300000, fall_back: [quality]}}
"""
BODY = {
    "messages": [{"role": "user", "content": "Fix the bug"}],
    "max_tokens": 64,
    "diffusion": {"steps": 24, "entropy_bound": 0.001},
}
BEFORE, AFTER = 3, 5  # good answers of every client before the kill, and after it
THROUGH = 2  # clients of the gateway
LONGEST = 200  # requests of a client


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A request: when it began and ended, and how."""

    begin_s: float
    end_s: float
    status: int
    target: str


async def client(url: str, model: str, samples: list[Sample], is_over: Callable[[list[Sample]], bool]) -> None:
    """Send one request after the other until `is_over`."""
    async with httpx.AsyncClient(timeout=310, trust_env=False) as http:
        while not is_over(samples):
            assert len(samples) < LONGEST
            begin_s = time.monotonic()
            try:
                answer = await http.post(f"{url}/v1/chat/completions", json=BODY | {"model": model})
                status, target = answer.status_code, answer.headers.get("x-twolane-target", "")
            except httpx.TransportError:
                status, target = 0, ""
            samples.append(Sample(begin_s=begin_s, end_s=time.monotonic(), status=status, target=target))


def good(samples: list[Sample], since_s: float = 0.0) -> int:
    return sum(one.status == 200 and one.begin_s >= since_s for one in samples)


async def test_a_killed_replica_costs_clients_of_the_gateway_nothing(tmp_path: Path) -> None:
    quality, port = free_port(), free_port()
    async with Cluster(tmp_path) as cluster, StandIn(quality):
        policy = tmp_path / "policy.yaml"
        policy.write_text(POLICY.format(ray=cluster.url, quality=f"http://127.0.0.1:{quality}"))
        line = ("--policy", str(policy), "--port", str(port), "--admin-port", "0")
        async with Child(twolane_command("serve", line, environment={}, logs=tmp_path)) as gateway:
            await gateway.serve(f"http://127.0.0.1:{port}/health", within_s=300)
            through, direct, killed_s = await kill_under_load(f"http://127.0.0.1:{port}", cluster)
    assert {one.status for one in through} == {200}
    assert any(one.target == "fast" and one.begin_s > killed_s for one in through)
    lost = [one for one in direct if one.status != 200]
    assert lost, "the replica had no request: the test shows nothing"
    assert all(one.begin_s < killed_s < one.end_s for one in lost)


async def kill_under_load(gateway: str, cluster: Cluster) -> tuple[list[Sample], list[Sample], float]:
    """Kill a replica while two clients ask the gateway and eight ask Ray, so that it surely has requests of theirs."""
    each: list[list[Sample]] = [[] for _ in range(10)]
    killed_s = float("inf")

    def is_over(samples: list[Sample]) -> bool:
        return good(samples, killed_s) >= AFTER

    async with asyncio.TaskGroup() as group:
        for number, samples in enumerate(each):
            url, model = (gateway, "auto") if number < THROUGH else (cluster.url, "diffusion")
            group.create_task(client(url, model, samples, is_over))
        while not all(good(samples) >= BEFORE for samples in each):  # noqa: ASYNC110 - of other tasks
            await asyncio.sleep(0.05)
        victim, _other = cluster.replicas()
        killed_s = time.monotonic()
        os.kill(victim, signal.SIGKILL)
    through = [sample for samples in each[:THROUGH] for sample in samples]
    return through, [sample for samples in each[THROUGH:] for sample in samples], killed_s
