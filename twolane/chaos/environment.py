"""The environment of a chaos run: Redis, three workers, a quality server and two gateways as processes, and fault
proxies before two of the workers."""

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.errors import PolicyError
from gateway.policy_files.load import load
from gateway.policy_types import DEFAULT_TOTAL_MS
from twolane.chaos.plan import GATEWAYS, STORE, WORKERS, FaultInjection, FaultKind
from twolane.fault_proxy.control import Fault
from twolane.fault_proxy.proxy import FaultProxy
from twolane.process.children import Child, Command, twolane_command
from twolane.process.flags import WrongUseError, free_port

HOST: Final = "127.0.0.1"
HEALTH_CHECKS_PER_ATTEMPT: Final = 4
DRAIN_MARGIN_S: Final = 5.0  # above the deadlines of the policy
START_TIMEOUT_S: Final = 900.0
LAST_WORKER: Final = "worker-3"  # never affected by a fault


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosConfig:
    """Files of a run."""

    checkpoint: Path
    policy: Path
    logs: Path


class ChaosEnvironment:
    """`async with ChaosEnvironment(config) as environment:` starts all parts, and ends them on exit."""

    def __init__(self, config: ChaosConfig) -> None:
        self._config = config
        self._ports = {part: free_port() for part in (*WORKERS, LAST_WORKER, *GATEWAYS, STORE, "quality")}
        self._proxies = {worker: FaultProxy(self._url(worker)) for worker in WORKERS}
        self.limits = read_limits(config.policy)
        self._drain_s = self.limits.deadline_s + DRAIN_MARGIN_S
        self._children: dict[str, Child] = {}
        self._parts = contextlib.AsyncExitStack()

    @property
    def gateway_urls(self) -> tuple[str, ...]:
        """The URLs for clients."""
        return tuple(self._url(gateway) for gateway in GATEWAYS)

    def decision_log(self, gateway: str) -> Path:
        """The path of a gateway's decision log."""
        return self._config.logs / f"{gateway}.decisions.jsonl"

    async def __aenter__(self) -> "ChaosEnvironment":
        async with contextlib.AsyncExitStack() as parts:
            for proxy in self._proxies.values():
                await parts.enter_async_context(proxy)
            await self._add(parts, STORE, redis_command(self._config.logs, self._ports[STORE]))
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
        for child in self._children.values():  # a process stopped by SIGSTOP does not handle SIGTERM
            _signal(child, signal.SIGCONT)
        await self._parts.aclose()

    async def inject(self, injection: FaultInjection) -> None:
        """Start a fault."""
        child = self._children[injection.part]
        match injection.kind:
            case FaultKind.KILL:
                await child.kill()
            case FaultKind.TERMINATE:
                _signal(child, signal.SIGTERM)
            case FaultKind.PAUSE:
                _signal(child, signal.SIGSTOP)
            case FaultKind.PROXY:
                self._proxies[injection.part].fault = injection.fault

    async def recover(self, injection: FaultInjection) -> None:
        """End a fault and wait until the part serves again. Raises ProcessError if it does not."""
        child = self._children[injection.part]
        match injection.kind:
            case FaultKind.KILL:
                await child.start()
            case FaultKind.TERMINATE:
                await child.stop(grace_s=self._drain_s + 10.0)
                await child.start()
            case FaultKind.PAUSE:
                _signal(child, signal.SIGCONT)
            case FaultKind.PROXY:
                self._proxies[injection.part].fault = Fault()
        if injection.part != STORE:
            await self._await(injection.part)

    def memory_bytes(self) -> dict[str, int]:
        """Return resident memory by part (empty on other systems than Linux)."""
        return {name: held for name, child in self._children.items() if (held := _resident(child.pid))}

    async def _add(self, parts: contextlib.AsyncExitStack, name: str, command: Command) -> None:
        self._children[name] = await parts.enter_async_context(Child(command))

    async def _await(self, part: str) -> None:
        await self._children[part].serve(f"{self._url(part)}/health", within_s=START_TIMEOUT_S)

    def _url(self, part: str) -> str:
        return f"http://{HOST}:{self._ports[part]}"

    def _worker_command(self, worker: str) -> Command:
        line = ("--checkpoint", str(self._config.checkpoint), "--port", str(self._ports[worker]), "--threads", "1")
        return self._command(worker, "worker", (*line, "--drain-s", f"{self._drain_s:g}"))

    def _gateway_command(self, gateway: str) -> Command:
        environment = {
            "WORKER_1_URL": self._proxies[WORKERS[0]].url,
            "WORKER_2_URL": self._proxies[WORKERS[1]].url,
            "WORKER_3_URL": self._url(LAST_WORKER),
            "QUALITY_URL": self._url("quality"),
            "TWOLANE_POLICY": str(self._config.policy),
            "TWOLANE_PORT": str(self._ports[gateway]),
            "TWOLANE_ADMIN_PORT": "0",
            "TWOLANE_REDIS_URL": f"redis://{HOST}:{self._ports[STORE]}/0",
            "TWOLANE_HEALTH_TIMEOUT_S": f"{self.limits.attempt_s / HEALTH_CHECKS_PER_ATTEMPT:g}",
            "TWOLANE_DRAIN_S": f"{self._drain_s:g}",
            "TWOLANE_DECISION_LOG": str(self.decision_log(gateway)),
        }
        return self._command(gateway, "serve", (), environment)

    def _command(
        self, name: str, verb: str, line: tuple[str, ...], environment: Mapping[str, str] | None = None
    ) -> Command:
        command = twolane_command(verb, line, environment=environment or {}, logs=self._config.logs)
        return Command(
            name=name, line=command.line, environment=command.environment, log=self._config.logs / f"{name}.log"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeLimits:
    """The longest deadline and the longest attempt of a policy's routes, in seconds."""

    deadline_s: float
    attempt_s: float


def read_limits(policy: Path) -> TimeLimits:
    """Return the time limits of a policy. Raises WrongUseError for a policy that is not valid."""
    try:
        routes = [rule.route for rule in load(policy, os.environ).rules]
    except PolicyError as error:
        raise WrongUseError(str(error)) from None
    deadlines = [route.deadline_ms or DEFAULT_TOTAL_MS for route in routes]
    attempts = [route.attempt_ms or deadline for route, deadline in zip(routes, deadlines, strict=True)]
    return TimeLimits(deadline_s=max(deadlines) / 1e3, attempt_s=max(attempts) / 1e3)


def redis_command(logs: Path, port: int) -> Command:
    """Return the command of a Redis without persistence. Raises WrongUseError if Redis is not installed."""
    server = shutil.which("redis-server")
    if server is None:
        raise WrongUseError("redis-server is not installed: run `make redis`")
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
