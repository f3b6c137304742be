"""The demo's environment: worker, quality server and gateway as processes, and a fault proxy before the worker."""

import asyncio
import contextlib
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

import httpx

from twolane.demo.case_types import DemoFault
from twolane.demo.prompts import SHORT, SLOPPY
from twolane.fault_proxy.control import Fault, Mode
from twolane.fault_proxy.proxy import FaultProxy
from twolane.process.children import Child, Command, ProcessError, twolane_command
from twolane.process.flags import free_port, port_is_free

HOST: Final = "127.0.0.1"
DEFAULT_PORTS: Final = MappingProxyType(
    {"gateway": 8080, "admin": 8090, "worker": 8001, "quality": 8002, "proxy": 8011}
)
LATE_S: Final = 2.0  # above every SLO of the policy, below every deadline; raised with the SLOs
HEADROOM: Final = 10.0  # minimum ratio of an SLO to the latency without faults, so that only faults violate it
LATENCY_SAMPLES: Final = 5
START_TIMEOUT_S: Final = 900.0  # the first import of torch is slow on a slow disk
POLL_S: Final = 0.05
SERVING: Final = ("ready", "degraded")
_SLO: Final = re.compile(r"\bp95_ms: *(?P<ms>\d+(?:\.\d+)?)")

PROXY_FAULTS: Final = MappingProxyType(
    {
        DemoFault.NONE: Fault(),
        DemoFault.CORRUPT_ALTERNATE: Fault(mode=Mode.CORRUPT, share=0.5),
        DemoFault.CORRUPT: Fault(mode=Mode.CORRUPT),
        DemoFault.TRUNCATE: Fault(mode=Mode.TRUNCATE),
        DemoFault.OVERLOADED: Fault(mode=Mode.TOO_MANY, seconds=1),
        DemoFault.WORKER_SLOW: Fault(mode=Mode.DELAY, seconds=LATE_S),
        DemoFault.WORKER_KILLED: Fault(),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoConfig:
    """Files and ports of the demo."""

    checkpoint: Path
    policy: Path
    logs: Path
    ports: Mapping[str, int]
    has_smollm2: bool = True  # otherwise the quality lane is a second worker with left-to-right decoding

    def url(self, part: str) -> str:
        """The URL of a part."""
        return f"http://{HOST}:{self.ports[part]}"


def choose_ports(*, free_only: bool) -> dict[str, int]:
    """Return a different port for each part: the default one if free (and not `free_only`), else any free one."""
    chosen: dict[str, int] = {}
    for part, default in DEFAULT_PORTS.items():
        port = default if not free_only and port_is_free(HOST, default) else free_port(HOST)
        while port in chosen.values():
            port = free_port(HOST)
        chosen[part] = port
    return chosen


def check_ports(ports: Mapping[str, int]) -> None:
    """Raises ProcessError if another server has taken a port of the gateway, which starts last, since it was chosen."""
    for part in ("gateway", "admin"):
        if not port_is_free(HOST, ports[part]):
            raise ProcessError(f"port {ports[part]} ({part}) was taken by another server: run it again")


class DemoEnvironment:
    """`async with DemoEnvironment(config) as environment:` starts all parts, and ends them on exit."""

    def __init__(self, config: DemoConfig) -> None:
        self.config = config
        self._worker = Child(_worker_command(config))
        self._proxy = FaultProxy(config.url("worker"), host=HOST, port=config.ports["proxy"])
        self._slowness = 1.0
        self._parts = contextlib.AsyncExitStack()

    async def __aenter__(self) -> "DemoEnvironment":
        async with contextlib.AsyncExitStack() as parts:
            quality = await parts.enter_async_context(Child(_quality_command(self.config)))
            await parts.enter_async_context(self._worker)
            await parts.enter_async_context(self._proxy)
            await asyncio.gather(
                quality.serve(f"{self.config.url('quality')}/health", within_s=START_TIMEOUT_S),
                self._await_worker(),
            )
            # Last, because it sends requests to the quality lane while the worker loads.
            command = _gateway_command(await self._calibrated())
            check_ports(self.config.ports)  # or else another server's answers would be taken for those of this demo
            gateway = await parts.enter_async_context(Child(command))
            await gateway.serve(f"{self.config.url('gateway')}/health", within_s=START_TIMEOUT_S)
            self._parts = parts.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._parts.aclose()

    async def inject(self, fault: DemoFault) -> None:
        """Replace the current fault, and return once it applies. Without one the worker is running and ready."""
        applied = PROXY_FAULTS[fault]
        slow = fault is DemoFault.WORKER_SLOW
        self._proxy.fault = replace(applied, seconds=applied.seconds * self._slowness) if slow else applied
        if fault is DemoFault.WORKER_KILLED:
            await self._worker.kill()
        elif not self._worker.is_running:
            await self._worker.start()
            await self._await_worker()

    async def until_fast_lane_serves(self) -> None:
        """Wait until the gateway has seen that the worker is ready; health checks may time out on a slow machine."""
        url = f"{self.config.url('gateway')}/v1/models/fast"
        deadline = time.monotonic() + START_TIMEOUT_S
        async with httpx.AsyncClient(timeout=60.0, trust_env=False) as client:
            while (await client.get(url)).json().get("twolane", {}).get("state") not in SERVING:
                if time.monotonic() > deadline:
                    raise ProcessError(f"the gateway did not see a ready worker within {START_TIMEOUT_S:.0f} s")
                await asyncio.sleep(POLL_S)

    async def _calibrated(self) -> DemoConfig:
        """Return the config, with SLOs that are raised if this machine is too slow for them."""
        policy = self.config.policy.read_text(encoding="utf-8")
        self._slowness = slowness(policy, await self._worker_latency_ms())
        if self._slowness == 1.0:
            return self.config
        raised = self.config.logs / "policy.yaml"
        raised.write_text(raise_slos(policy, self._slowness), encoding="utf-8")
        return replace(self.config, policy=raised)

    async def _worker_latency_ms(self) -> float:
        """Return the highest of a few latencies without faults; the first request only warms up."""
        body = {"model": "diffusion", "messages": [{"role": "user", "content": SLOPPY}], **SHORT}
        latencies_ms = []
        async with httpx.AsyncClient(timeout=START_TIMEOUT_S, trust_env=False) as client:
            for _ in range(1 + LATENCY_SAMPLES):
                begin_s = time.monotonic()
                response = await client.post(f"{self.config.url('worker')}/v1/chat/completions", json=body)
                if response.status_code != 200:
                    raise ProcessError(f"the worker responded with {response.status_code}: {response.text}")
                latencies_ms.append((time.monotonic() - begin_s) * 1000)
        return max(latencies_ms[1:])

    async def _await_worker(self) -> None:
        await self._worker.serve(f"{self.config.url('worker')}/health", within_s=START_TIMEOUT_S)


def slowness(policy: str, latency_ms: float) -> float:
    """Return the factor by which a policy's SLOs must be raised for this latency without faults; at least 1."""
    tightest_ms = min((float(found["ms"]) for found in _SLO.finditer(policy)), default=float("inf"))
    return max(1.0, HEADROOM * latency_ms / tightest_ms)


def raise_slos(policy: str, factor: float) -> str:
    """Return the policy's text with every `p95_ms` multiplied by the factor."""
    return _SLO.sub(lambda found: f"p95_ms: {float(found['ms']) * factor:.0f}", policy)


def _worker_command(config: DemoConfig) -> Command:
    # One thread: the other parts share the cores, and spinning threads of torch would starve them.
    line = ("--checkpoint", str(config.checkpoint), "--port", str(config.ports["worker"]), "--threads", "1")
    return twolane_command("worker", line, environment={}, logs=config.logs)


def _quality_command(config: DemoConfig) -> Command:
    if config.has_smollm2:
        return twolane_command("quality", ("--port", str(config.ports["quality"])), environment={}, logs=config.logs)
    port = str(config.ports["quality"])
    line = ("--checkpoint", str(config.checkpoint), "--port", port, "--threads", "1")
    command = twolane_command("worker", line, environment={}, logs=config.logs)
    return replace(command, name="quality", log=config.logs / "quality.log")


def _gateway_command(config: DemoConfig) -> Command:
    environment = {
        "WORKER_URL": config.url("proxy"),
        "QUALITY_URL": config.url("quality"),
        "QUALITY_MODEL": "smollm2" if config.has_smollm2 else "diffusion:autoregressive",
        "TWOLANE_POLICY": str(config.policy),
        "TWOLANE_PORT": str(config.ports["gateway"]),
        "TWOLANE_ADMIN_PORT": str(config.ports["admin"]),
        "TWOLANE_CONNECT_S": "60",
        "TWOLANE_HEALTH_TIMEOUT_S": "60",
        "TWOLANE_HEARTBEAT_S": "0",  # a heartbeat sends the headers of a stream before its attempts are known
    }
    return twolane_command("serve", (), environment=environment, logs=config.logs)
