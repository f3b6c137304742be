"""The stage of a tour: worker, quality server and gateway as processes, the tampering proxy between, scenes to change.

Knows how the parts are started and disturbed; knows nothing of the rows that are played on it.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from twolane.demo.case_types import Scene
from twolane.fault_proxy.control import Fault, Mode
from twolane.fault_proxy.proxy import FaultProxy
from twolane.process.children import Child, Command, twolane_command
from twolane.process.flags import free_port, port_is_free

HOST: Final = "127.0.0.1"
DEFAULT_PORTS: Final = MappingProxyType(
    {"gateway": 8080, "admin": 8090, "worker": 8001, "quality": 8002, "proxy": 8011}
)
LATE_S: Final = 2.0  # over every budget in the tour's policy, under every deadline
UP_WITHIN_S: Final = 180.0  # the first import of torch on a slow disk takes its time

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
            gateway = await parts.enter_async_context(Child(_gateway_command(self.setting)))
            await gateway.serve(f"{self.setting.url('gateway')}/health", within_s=UP_WITHIN_S)
            self._parts = parts.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._parts.aclose()

    async def change(self, scene: Scene) -> None:
        """Bring about a scene; returns when it holds."""
        self._proxy.fault = FAULTS[scene]
        if scene is Scene.KILLED:
            await self._worker.kill()
        elif not self._worker.is_running:
            await self._worker.start()
            await self._await_worker()

    async def _await_worker(self) -> None:
        await self._worker.serve(f"{self.setting.url('worker')}/health", within_s=UP_WITHIN_S)


def _worker_command(setting: Setting) -> Command:
    # One thread: few cores are shared with the other two parts, and waiting threads that spin starve them.
    line = ("--checkpoint", str(setting.checkpoint), "--port", str(setting.ports["worker"]), "--threads", "1")
    return twolane_command("worker", line, environment={}, logs=setting.logs)


def _quality_command(setting: Setting) -> Command:
    return twolane_command("quality", ("--port", str(setting.ports["quality"])), environment={}, logs=setting.logs)


def _gateway_command(setting: Setting) -> Command:
    environment = {
        "WORKER_URL": setting.url("proxy"),
        "QUALITY_URL": setting.url("quality"),
        "TWOLANE_POLICY": str(setting.policy),
        "TWOLANE_PORT": str(setting.ports["gateway"]),
        "TWOLANE_ADMIN_PORT": str(setting.ports["admin"]),
    }
    return twolane_command("serve", (), environment=environment, logs=setting.logs)
