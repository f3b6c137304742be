"""Workers discovered via DNS start, drain and die, and scale as the autoscaler's queries demand, while two gateways
with a shared Redis lose no request."""

import asyncio
import contextlib
import json
import math
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import httpx
import pytest
import yaml

from twolane.bench.load import OK, LoadOptions, Sample, run
from twolane.bench.plan import Prompt, poisson, schedule
from twolane.process.children import Child, Command
from twolane.process.flags import free_port

ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "checkpoints" / "twolane-tiny"
NAME = "workers.test"
DRAIN_S = 300  # requests queued at a draining worker are answered, also on a slow machine
SCALED = ROOT / "deploy" / "kubernetes" / "components" / "autoscaling" / "scaledobject.yaml"

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not shutil.which("unshare") or os.getuid() != 0, reason="needs root for a hosts file of ours"),
]

POLICY = """
version: 1
targets:
  fast: {{kind: worker, url: "http://{name}:{port}", resolve: dns, model: diffusion, location: in_cluster, retry: {{}}}}
routes:
  - {{name: all, use: fast, deadline_ms: 600000}}
"""


# Requests at a worker that surely can be retried when it dies. Either gateway may hold all of them and has half of the
# budget, five retries, and pays as well for those that it sends to the dead address until it is told.
COVERED = 2


class Fleet:
    """Workers on several loopback addresses and one port; only the gateways see the hosts file with their name."""

    def __init__(self, folder: Path, *line: str) -> None:
        self.folder, self._line = folder, line
        self.port, self.redis_port = free_port(), free_port()
        self.gateways = [free_port(), free_port()]
        self.workers: dict[str, Child] = {}
        self.hosts, self.targets = folder / "hosts", folder / "targets.json"
        self._next = 10
        self._is_served = False  # the gateways have started
        self._write()

    async def join(self) -> str:
        """Start a worker, and add its address to the name once it serves."""
        self._next += 1
        address = f"127.0.0.{self._next}"
        line = ("--checkpoint", str(CHECKPOINT), "--threads", "1", "--host", address, "--drain-s", str(DRAIN_S))
        worker = Child(self._command(f"worker-{address}", ("worker", *line, "--port", str(self.port), *self._line)))
        await worker.start()
        await worker.serve(f"http://{address}:{self.port}/health", within_s=300)
        self.workers[address] = worker
        await self._announce()
        return address

    async def leave(self, address: str) -> None:
        """Terminate a worker as Kubernetes does: out of DNS, a pause (preStop) in which gateways notice, SIGTERM."""
        worker = self.workers.pop(address)
        await self._announce()
        await worker.stop(grace_s=DRAIN_S + 5)

    async def die(self, address: str) -> None:
        """Kill a worker that holds a request; its address stays in the name for a while. On a slow machine requests
        pile up: wait until the retry budget surely covers those that the worker holds."""
        async with asyncio.timeout(600):
            while not 0 < await self._load_of(address) <= COVERED:  # noqa: ASYNC110 - state of another process
                await asyncio.sleep(0.02)
        worker = self.workers.pop(address)
        await worker.kill()
        await asyncio.sleep(2.0)
        self._write()

    async def serve(self, children: Sequence[Child]) -> None:
        """Wait until both gateways serve."""
        for child, port in zip(children, self.gateways, strict=True):
            await child.serve(f"http://127.0.0.1:{port}/health", within_s=300)
        self._is_served = True

    async def _announce(self) -> None:
        """Change the addresses of the name, and wait until both gateways know."""
        if not self._is_served:
            self._write()
            return
        before = [await self._reloads(number) for number in range(2)]
        self._write()
        async with asyncio.timeout(600):
            for number in range(2):
                while await self._reloads(number) <= before[number]:  # noqa: ASYNC110 - state of other processes
                    await asyncio.sleep(0.1)

    async def _reloads(self, number: int) -> float:
        """How often a gateway has loaded its policy again, as it does when an address comes or goes."""
        [admin] = re.findall(r"admin (http://[0-9.:]+)", (self.folder / f"gateway-{number}.log").read_text())
        async with httpx.AsyncClient(timeout=120, trust_env=False) as client:
            page = (await client.get(f"{admin}/metrics")).text
        return sum(map(float, re.findall(r"^twolane_policy_reloads_total\{.*\} (\S+)$", page, re.MULTILINE)))

    async def _load_of(self, address: str) -> int:
        """Requests that a worker holds, running or queued."""
        async with httpx.AsyncClient(timeout=120, trust_env=False) as client:
            health = (await client.get(f"http://{address}:{self.port}/health")).json()
        return int(health["running"]) + int(health["waiting"])

    def gateway(self, number: int) -> Child:
        policy = self.folder / "policy.yaml"
        policy.write_text(POLICY.format(name=NAME, port=self.port))
        before = ("unshare", "--mount", "sh", "-c", f'mount --bind {self.hosts} /etc/hosts && exec "$@"', "sh")
        environment = {
            "TWOLANE_POLICY": str(policy),
            "TWOLANE_PORT": str(self.gateways[number]),
            "TWOLANE_ADMIN_PORT": "0",
            "TWOLANE_REDIS_URL": f"redis://127.0.0.1:{self.redis_port}/0",
        }
        return Child(self._command(f"gateway-{number}", ("serve",), before, environment))

    def redis(self) -> Child:
        line = ("redis-server", "--port", str(self.redis_port), "--save", "", "--dir", str(self.folder))
        return Child(Command(name="redis", line=line, environment=dict(os.environ), log=self.folder / "redis.log"))

    async def load(
        self, rate: float, seconds: float, seed: int, *, steps: int = 3, samples: list[Sample] | None = None
    ) -> list[Sample]:
        """Send a load to both gateways; a request takes about 10 ms per step. Returns `samples` with the new ones."""
        body = {"max_tokens": 96, "diffusion": {"steps": steps, "entropy_bound": 0.001}}
        prompts = [Prompt(body=body | {"messages": [{"role": "user", "content": f"Say {n}"}]}) for n in range(50)]
        samples = [] if samples is None else samples
        async with asyncio.TaskGroup() as group:
            for number, port in enumerate(self.gateways):
                options = LoadOptions(url=f"http://127.0.0.1:{port}", stream=number == 1, timeout_s=620.0)
                calls = schedule(poisson(rate / 2, seconds, seed + number), prompts, seed)
                group.create_task(run(calls, options, on_result=samples.append))
        return samples

    async def load_until(self, ended: asyncio.Event, rate: float, samples: list[Sample]) -> None:
        """Send a load in parts of a few seconds until `ended` is set: requests do not pile up on a slow machine."""
        seed = 0
        while not ended.is_set():
            seed += 1
            await self.load(rate, 4, seed, samples=samples)

    def _write(self) -> None:
        """Write the files in place, because the file is mounted, not its name."""
        self.hosts.write_text("".join(f"{address} {NAME}\n" for address in self.workers) + "127.0.0.1 localhost\n")
        places = [f"{address}:{self.port}" for address in self.workers]
        (self.folder / "part").write_text(json.dumps([{"targets": places}]))
        (self.folder / "part").replace(self.targets)

    def _command(
        self,
        name: str,
        line: tuple[str, ...],
        before: tuple[str, ...] = (),
        environment: dict[str, str] | None = None,
    ) -> Command:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("TWOLANE_")}
        return Command(
            name=name,
            line=(*before, sys.executable, "-m", "twolane", *line),
            environment=kept | (environment or {}),
            log=self.folder / f"{name}.log",
        )


@contextlib.asynccontextmanager
async def fleet(folder: Path, workers: int, *line: str) -> AsyncIterator[Fleet]:
    it = Fleet(folder, *line)
    try:
        async with it.redis():
            for _ in range(workers):
                await it.join()
            async with it.gateway(0) as one, it.gateway(1) as two:
                await it.serve((one, two))
                yield it
    finally:
        for worker in it.workers.values():
            await worker.stop()


async def test_no_request_is_lost_when_workers_start_drain_and_die(tmp_path: Path) -> None:
    """Only a stream of which text has left cannot be asked for again when its worker dies."""
    async with fleet(tmp_path, 2) as it:
        samples: list[Sample] = []
        ended = asyncio.Event()
        loading = asyncio.create_task(it.load_until(ended, 4, samples))
        await more(samples, 15)
        await it.join()
        await more(samples, 25)
        await it.leave(next(iter(it.workers)))
        await more(samples, 10)
        await it.die(next(iter(it.workers)))
        await more(samples, 10)
        ended.set()
        await loading
        failed = [sample for sample in samples if sample.outcome != OK]
        assert [sample for sample in failed if sample.first_s is None] == []
        assert len(failed) <= COVERED
        assert len(it.workers) == 1
        last = await it.load(4, 3, seed=9)
        assert {sample.outcome for sample in last} == {OK}


async def test_no_request_is_lost_when_the_autoscaler_scales(tmp_path: Path) -> None:
    """Scale as KEDA does, with the manifest's queries and thresholds and a real Prometheus: the larger ceil(value /
    threshold) is the number of workers."""
    triggers = [one["metadata"] for one in yaml.safe_load(SCALED.read_text())["spec"]["triggers"]]
    async with fleet(tmp_path, 1, "--max-num-seqs", "1", "--max-waiting", "1000") as it, prometheus(it) as url:
        assert await wanted(url, triggers) == 1
        load = asyncio.create_task(it.load(20, 2, seed=1, steps=10))
        seen = [1]
        async with asyncio.timeout(1500):
            while not load.done() or len(it.workers) > 1:
                await asyncio.sleep(1.0)
                seen.append(await wanted(url, triggers))
                if seen[-1] > len(it.workers) and len(it.workers) < 2 and not load.done():
                    await it.join()
                elif load.done() and seen[-1] == 1 and len(it.workers) > 1:
                    await it.leave(max(it.workers))
        assert max(seen) > 1, "the load was to be too much for one"
        assert [one for one in load.result() if one.outcome != OK] == []
        assert len(it.workers) == 1


async def more(samples: list[Sample], count: int) -> None:
    """Wait until `count` more requests have ended."""
    expected = len(samples) + count
    async with asyncio.timeout(600):
        while len(samples) < expected:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def wanted(url: str, triggers: list[dict[str, str]]) -> int:
    """The number of workers, at least one; a query without a result counts as 0."""
    counts = [1]
    async with httpx.AsyncClient(timeout=120, trust_env=False) as client:
        for trigger in triggers:
            result = (await client.get(f"{url}/api/v1/query", params={"query": trigger["query"]})).json()
            for found in result["data"]["result"]:
                counts.append(math.ceil(float(found["value"][1]) / float(trigger["threshold"])))
    return max(counts)


@contextlib.asynccontextmanager
async def prometheus(it: Fleet) -> AsyncIterator[str]:
    """A Prometheus that scrapes all current workers every second."""
    port = free_port()
    configuration = {
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [
            {
                "job_name": "twolane-worker",
                "file_sd_configs": [{"files": [str(it.targets)], "refresh_interval": "1s"}],
            }
        ],
    }
    (it.folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    line = (
        "prometheus", f"--config.file={it.folder}/prometheus.yml", f"--storage.tsdb.path={it.folder}/tsdb",
        f"--web.listen-address=127.0.0.1:{port}",
    )  # fmt: skip
    log = it.folder / "prometheus.log"
    async with Child(Command(name="prometheus", line=line, environment=dict(os.environ), log=log)) as child:
        await child.serve(f"http://127.0.0.1:{port}/-/ready", within_s=300)
        url = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(timeout=120, trust_env=False) as client, asyncio.timeout(120):
            while not await scraped(client, url):  # noqa: ASYNC110 - state of another process
                await asyncio.sleep(0.2)
        yield url


async def scraped(client: httpx.AsyncClient, url: str) -> bool:
    """Whether the workers have been scraped often enough for a rate."""
    result = (await client.get(f"{url}/api/v1/query", params={"query": "min(count_over_time(up[1m]))"})).json()
    return any(float(found["value"][1]) >= 3 for found in result["data"]["result"])
