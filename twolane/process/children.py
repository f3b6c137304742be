"""Child processes that never outlive us: started in groups of their own, awaited until they serve, ended by their id.

Knows processes and `/health`; knows nothing of what the children do.
"""

import asyncio
import ctypes
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

GRACE_S: Final = 8.0
POLL_S: Final = 0.1
GONE_POLLS: Final = 100
PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
LOG_TAIL_LINES: Final = 12


class ProcessError(Exception):
    """A child did not come up; the text names it and carries the end of its log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What to start: a name for people, the command line, its whole environment, where its output goes."""

    name: str
    line: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path


class Child:
    """One running child. `async with` is left only when neither it nor its own children are there any more."""

    def __init__(self, command: Command) -> None:
        self.command = command
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """The process id, None before the start."""
        return self._process.pid if self._process else None

    @property
    def is_running(self) -> bool:
        """Whether the process was started and has not ended."""
        return self._process is not None and self._process.returncode is None

    async def __aenter__(self) -> "Child":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start the process; its output is appended to its log."""
        with self.command.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self.command.line,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.command.environment,
                start_new_session=True,  # ctrl-C at the terminal reaches us alone, and we end them in order
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )

    async def serve(self, health_url: str, *, within_s: float) -> None:
        """Wait until `health_url` answers 200; raises ProcessError if it ends before or takes longer."""
        deadline = time.monotonic() + within_s
        async with httpx.AsyncClient(timeout=10.0, trust_env=False) as client:
            while not await _answers(client, health_url):
                if not self.is_running:
                    raise ProcessError(f"{self.command.name} ended before it served: {self.last_words()}")
                if time.monotonic() > deadline:
                    raise ProcessError(
                        f"{self.command.name} did not serve within {within_s:.0f} s: {self.last_words()}"
                    )
                await asyncio.sleep(POLL_S)

    async def stop(self, *, grace_s: float = GRACE_S) -> None:
        """Ask it to end, and end it if it does not within `grace_s`; also when we are cancelled meanwhile."""
        if self._process is None:
            return
        try:
            self._signal(signal.SIGTERM)
            async with asyncio.timeout(grace_s):
                await self._process.wait()
        except TimeoutError:
            pass
        finally:
            self._signal(signal.SIGKILL)  # whatever of its group is left
            await asyncio.shield(self._process.wait())
            await self._outlast_group()

    async def kill(self) -> None:
        """End it without notice, as a crash would."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            await self._process.wait()

    def last_words(self) -> str:
        """Return the end of its log."""
        text = self.command.log.read_text(errors="replace") if self.command.log.exists() else ""
        return "\n".join(text.strip().splitlines()[-LOG_TAIL_LINES:]) or "(it said nothing)"

    async def _outlast_group(self) -> None:
        """Wait until its own children, which nobody here can wait for, have gone as well."""
        for _ in range(GONE_POLLS):  # one that nobody collects stays listed, so not for ever
            if not self._signal(0):
                return
            await asyncio.sleep(POLL_S / 10)

    def _signal(self, number: int) -> bool:
        """Signal the whole group; return whether there was anybody in it."""
        if self._process is None:
            return False
        try:
            os.killpg(self._process.pid, number)  # it leads its own group, so its id is the group's
        except ProcessLookupError:
            return False
        return True


def twolane_command(name: str, arguments: Sequence[str], *, environment: Mapping[str, str], logs: Path) -> Command:
    """Return the command that runs `twolane NAME ARGUMENTS` with this interpreter.

    Settings in our own environment are not handed on: what is started depends on the arguments given here alone. Its
    temporary files go beside its log, so that they go when that goes.
    """
    line = (sys.executable, "-m", "twolane", name, *arguments)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("TWOLANE_", "QUALITY_"))}
    return Command(
        name=name, line=line, environment={**kept, "TMPDIR": str(logs), **environment}, log=logs / f"{name}.log"
    )


async def _answers(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(url)).status_code == 200
    except httpx.TransportError:
        return False


def _die_with_parent() -> None:
    """Have the kernel end the child if we are killed without a chance to do it (Linux; elsewhere we only try)."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
