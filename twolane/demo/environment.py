"""The stage of a tour: worker, quality server and gateway as processes, the tampering proxy between, scenes to change.

Knows how the parts are started and disturbed; knows nothing of the rows that are played on it.
"""

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

from twolane.demo.case_types import Scene
from twolane.demo.prompts import SHORT, SLOPPY
from twolane.fault_proxy.control import Fault, Mode
from twolane.fault_proxy.proxy import FaultProxy
from twolane.process.children import Child, Command, ProcessError, twolane_command
from twolane.process.flags import free_port, port_is_free

HOST: Final = "127.0.0.1"
DEFAULT_PORTS: Final = MappingProxyType(
    {"gateway": 8080, "admin": 8090, "worker": 8001, "quality": 8002, "proxy": 8011}
)
LATE_S: Final = 2.0  # over every SLO in the tour's policy, under every deadline; raised with the SLOs
HEADROOM: Final = 10.0  # how many times longer than a calm answer an SLO must be, so that only a fault breaks it
CALM_ANSWERS: Final = 5
UP_WITHIN_S: Final = 900.0  # the first import of torch on a slow disk takes its time
POLL_S: Final = 0.05
SERVING: Final = ("ready", "degraded")
_SLO: Final = re.compile(r"\bp95_ms: *(?P<ms>\d+(?:\.\d+)?)")

FAULTS: Final = MappingProxyType(
    {
        Scene.CALM: Fault(),
        Scene.SPOILT_ONCE: Fault(mode=Mode.CORRUPT, share=0.5),
        Scene.SPOILT: Fault(mode=Mode.CORRUPT),
        Scene.CUT_OFF: Fault(mode=Mode.TRUNCATE),
        Scene.CROWDED: Fault(mode=Mode.TOO_MANY, seconds=1),
        Scene.SLOW: Fault(mode=Mode.DELAY, seconds=LATE_S),
        Scene.KILLED: Fault(),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a tour is played with."""

    checkpoint: Path
    policy: Path
    logs: Path
    ports: Mapping[str, int]
    has_smollm2: bool = True  # otherwise the quality lane is a second worker with left-to-right decoding

    def url(self, part: str) -> str:
        """Where a part listens."""
        return f"http://{HOST}:{self.ports[part]}"


def choose_ports(*, free_only: bool) -> dict[str, int]:
    """Return the default port of each part where it is free, else (or with `free_only`) any free one; no two alike."""
    chosen: dict[str, int] = {}
    for part, usual in DEFAULT_PORTS.items():
        port = usual if not free_only and port_is_free(HOST, usual) else free_port(HOST)
        while port in chosen.values():
            port = free_port(HOST)
        chosen[part] = port
    return chosen


class Stage:
    """`async with Stage(setting) as stage:` has all parts serving inside, and none of them running after."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self._worker = Child(_worker_command(setting))
        self._proxy = FaultProxy(setting.url("worker"), host=HOST, port=setting.ports["proxy"])
        self._slowness = 1.0
        self._parts = contextlib.AsyncExitStack()

    async def __aenter__(self) -> "Stage":
        async with contextlib.AsyncExitStack() as parts:
            quality = await parts.enter_async_context(Child(_quality_command(self.setting)))
            await parts.enter_async_context(self._worker)
            await parts.enter_async_context(self._proxy)
            await asyncio.gather(
                quality.serve(f"{self.setting.url('quality')}/health", within_s=UP_WITHIN_S),
                self._await_worker(),
            )
            # Last, so that it meets a worker that is ready: while one loads, requests rightly take the quality lane.
            gateway = await parts.enter_async_context(Child(_gateway_command(await self._for_this_machine())))
            await gateway.serve(f"{self.setting.url('gateway')}/health", within_s=UP_WITHIN_S)
            self._parts = parts.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._parts.aclose()

    async def change(self, scene: Scene) -> None:
        """Bring about a scene; returns when it holds."""
        fault = FAULTS[scene]
        self._proxy.fault = replace(fault, seconds=fault.seconds * self._slowness) if scene is Scene.SLOW else fault
        if scene is Scene.KILLED:
            await self._worker.kill()
        elif not self._worker.is_running:
            await self._worker.start()
            await self._await_worker()

    async def until_fast_lane_serves(self) -> None:
        """Wait until the gateway has seen that the worker is ready; on a slow machine it may have lost sight of it."""
        url = f"{self.setting.url('gateway')}/v1/models/fast"
        deadline = time.monotonic() + UP_WITHIN_S
        async with httpx.AsyncClient(timeout=60.0, trust_env=False) as client:
            while (await client.get(url)).json().get("twolane", {}).get("state") not in SERVING:
                if time.monotonic() > deadline:
                    raise ProcessError(f"the gateway did not see the worker within {UP_WITHIN_S:.0f} s")
                await asyncio.sleep(POLL_S)

    async def _for_this_machine(self) -> Setting:
        """The setting, with a policy whose SLOs this machine can keep: lateness is measured by its own calm answers."""
        policy = self.setting.policy.read_text(encoding="utf-8")
        self._slowness = slowness(policy, await self._calm_ms())
        if self._slowness == 1.0:
            return self.setting
        raised = self.setting.logs / "policy.yaml"
        raised.write_text(raise_slos(policy, self._slowness), encoding="utf-8")
        return replace(self.setting, policy=raised)

    async def _calm_ms(self) -> float:
        """How long the slowest of a few answers takes while nothing is wrong; the first one only warms up."""
        body = {"model": "diffusion", "messages": [{"role": "user", "content": SLOPPY}], **SHORT}
        took_ms = []
        async with httpx.AsyncClient(timeout=UP_WITHIN_S, trust_env=False) as client:
            for _ in range(1 + CALM_ANSWERS):
                begin_s = time.monotonic()
                answer = await client.post(f"{self.setting.url('worker')}/v1/chat/completions", json=body)
                if answer.status_code != 200:
                    raise ProcessError(f"the worker does not answer: {answer.status_code} {answer.text}")
                took_ms.append((time.monotonic() - begin_s) * 1000)
        return max(took_ms[1:])

    async def _await_worker(self) -> None:
        await self._worker.serve(f"{self.setting.url('worker')}/health", within_s=UP_WITHIN_S)


def slowness(policy: str, calm_ms: float) -> float:
    """Return by how much a policy's SLOs must be raised where calm answers take so long; at least 1."""
    tightest_ms = min((float(found["ms"]) for found in _SLO.finditer(policy)), default=float("inf"))
    return max(1.0, HEADROOM * calm_ms / tightest_ms)


def raise_slos(policy: str, factor: float) -> str:
    """Return the policy's text with every `p95_ms` multiplied."""
    return _SLO.sub(lambda found: f"p95_ms: {float(found['ms']) * factor:.0f}", policy)


def _worker_command(setting: Setting) -> Command:
    # One thread: few cores are shared with the other two parts, and waiting threads that spin starve them.
    line = ("--checkpoint", str(setting.checkpoint), "--port", str(setting.ports["worker"]), "--threads", "1")
    return twolane_command("worker", line, environment={}, logs=setting.logs)


def _quality_command(setting: Setting) -> Command:
    if setting.has_smollm2:
        return twolane_command("quality", ("--port", str(setting.ports["quality"])), environment={}, logs=setting.logs)
    port = str(setting.ports["quality"])
    line = ("--checkpoint", str(setting.checkpoint), "--port", port, "--threads", "1")
    command = twolane_command("worker", line, environment={}, logs=setting.logs)
    return replace(command, name="quality", log=setting.logs / "quality.log")


def _gateway_command(setting: Setting) -> Command:
    environment = {
        "WORKER_URL": setting.url("proxy"),
        "QUALITY_URL": setting.url("quality"),
        "QUALITY_MODEL": "smollm2" if setting.has_smollm2 else "diffusion:autoregressive",
        "TWOLANE_POLICY": str(setting.policy),
        "TWOLANE_PORT": str(setting.ports["gateway"]),
        "TWOLANE_ADMIN_PORT": str(setting.ports["admin"]),
        "TWOLANE_CONNECT_S": "60",
        "TWOLANE_IDLE_S": "600",
        "TWOLANE_HEALTH_TIMEOUT_S": "60",
    }
    return twolane_command("serve", (), environment=environment, logs=setting.logs)
