"""The stage of a chaos run: Redis, three workers, a quality server and two gateways as processes, and proxies that can
spoil what two of the workers answer. Knows how parts are started, hurt and healed.
"""

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from twolane.chaos.plan import GATEWAYS, STORE, WORKERS, Deed, Trouble
from twolane.fault_proxy.control import Fault
from twolane.fault_proxy.proxy import FaultProxy
from twolane.process.children import Child, Command, twolane_command
from twolane.process.flags import WrongUseError, free_port

HOST: Final = "127.0.0.1"
UP_WITHIN_S: Final = 900.0
LAST_WORKER: Final = "worker-3"  # the one that nothing happens to


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a run is made with."""

    checkpoint: Path
    policy: Path
    logs: Path


class ChaosStage:
    """`async with ChaosStage(setting) as stage:` has all parts serving inside, and none of them running after."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._ports = {part: free_port() for part in (*WORKERS, LAST_WORKER, *GATEWAYS, STORE, "quality")}
        self._proxies = {worker: FaultProxy(self._url(worker)) for worker in WORKERS}
        self._children: dict[str, Child] = {}
        self._parts = contextlib.AsyncExitStack()

    @property
    def gateway_urls(self) -> tuple[str, ...]:
        """Where applications ask."""
        return tuple(self._url(gateway) for gateway in GATEWAYS)

    def decision_log(self, gateway: str) -> Path:
        """Where a gateway writes its decisions."""
        return self._setting.logs / f"{gateway}.decisions.jsonl"

    async def __aenter__(self) -> "ChaosStage":
        async with contextlib.AsyncExitStack() as parts:
            for proxy in self._proxies.values():
                await parts.enter_async_context(proxy)
            await self._add(parts, STORE, redis_command(self._setting.logs, self._ports[STORE]))
            for worker in (*WORKERS, LAST_WORKER):
                await self._add(parts, worker, self._worker_command(worker))
            quality = ("--port", str(self._ports["quality"]))
            await self._add(parts, "quality", self._command("quality", "quality", quality))
            await asyncio.gather(*(self._await(part) for part in (*WORKERS, LAST_WORKER, "quality")))
            for gateway in GATEWAYS:
                await self._add(parts, gateway, self._gateway_command(gateway))
            await asyncio.gather(*(self._await(gateway) for gateway in GATEWAYS))
            self._parts = parts.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        for child in self._children.values():  # one that is stopped cannot end
            _signal(child, signal.SIGCONT)
        await self._parts.aclose()

    async def hurt(self, trouble: Trouble) -> None:
        """Begin a trouble."""
        child = self._children[trouble.part]
        match trouble.deed:
            case Deed.KILL:
                await child.kill()
            case Deed.LEAVE:
                _signal(child, signal.SIGTERM)
            case Deed.PAUSE:
                _signal(child, signal.SIGSTOP)
            case Deed.SPOIL:
                self._proxies[trouble.part].fault = trouble.fault

    async def heal(self, trouble: Trouble) -> None:
        """End it; returns when the part serves again. Raises ProcessError if it does not."""
        child = self._children[trouble.part]
        match trouble.deed:
            case Deed.KILL:
                await child.start()
            case Deed.LEAVE:
                await child.stop(grace_s=30.0)
                await child.start()
            case Deed.PAUSE:
                _signal(child, signal.SIGCONT)
            case Deed.SPOIL:
                self._proxies[trouble.part].fault = Fault()
        if trouble.part != STORE:
            await self._await(trouble.part)

    def memory_bytes(self) -> dict[str, int]:
        """Resident memory by part (Linux; elsewhere nothing)."""
        return {name: held for name, child in self._children.items() if (held := _resident(child.pid))}

    async def _add(self, parts: contextlib.AsyncExitStack, name: str, command: Command) -> None:
        self._children[name] = await parts.enter_async_context(Child(command))

    async def _await(self, part: str) -> None:
        await self._children[part].serve(f"{self._url(part)}/health", within_s=UP_WITHIN_S)

    def _url(self, part: str) -> str:
        return f"http://{HOST}:{self._ports[part]}"

    def _worker_command(self, worker: str) -> Command:
        line = ("--checkpoint", str(self._setting.checkpoint), "--port", str(self._ports[worker]), "--threads", "1")
        return self._command(worker, "worker", line)

    def _gateway_command(self, gateway: str) -> Command:
        environment = {
            "WORKER_1_URL": self._proxies[WORKERS[0]].url,
            "WORKER_2_URL": self._proxies[WORKERS[1]].url,
            "WORKER_3_URL": self._url(LAST_WORKER),
            "QUALITY_URL": self._url("quality"),
            "TWOLANE_POLICY": str(self._setting.policy),
            "TWOLANE_PORT": str(self._ports[gateway]),
            "TWOLANE_ADMIN_PORT": "0",
            "TWOLANE_REDIS_URL": f"redis://{HOST}:{self._ports[STORE]}/0",
            "TWOLANE_DECISION_LOG": str(self.decision_log(gateway)),
        }
        return self._command(gateway, "serve", (), environment)

    def _command(
        self, name: str, verb: str, line: tuple[str, ...], environment: Mapping[str, str] | None = None
    ) -> Command:
        command = twolane_command(verb, line, environment=environment or {}, logs=self._setting.logs)
        return Command(
            name=name, line=command.line, environment=command.environment, log=self._setting.logs / f"{name}.log"
        )


def redis_command(logs: Path, port: int) -> Command:
    """A Redis that keeps nothing on the disk. Raises WrongUseError where there is none."""
    server = shutil.which("redis-server")
    if server is None:
        raise WrongUseError("no redis-server on this machine: `make redis` installs it")
    line = (server, "--port", str(port), "--bind", HOST, "--save", "", "--appendonly", "no", "--dir", str(logs))
    return Command(name=STORE, line=line, environment=dict(os.environ), log=logs / "redis.log")


def _signal(child: Child, number: int) -> None:
    if child.pid is not None and child.is_running:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)


def _resident(pid: int | None) -> int:
    read: Callable[[], str] = Path(f"/proc/{pid}/statm").read_text
    try:
        return int(read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
