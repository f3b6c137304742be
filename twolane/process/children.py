"""Child processes that never outlive their parent: started in process groups, awaited until ready, stopped by process
id.

Depends on processes and `/health` only, not on what the children do.
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
    """A child process did not start; the message names it and contains the end of its log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A process to start: a display name, the command line, its complete environment, and the file for its output."""

    name: str
    line: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path


class Child:
    """One running child. `async with` ends only after the child and its own children have exited."""

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
                start_new_session=True,  # ctrl-C must signal only the parent, which stops its children
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )

    async def serve(self, health_url: str, *, within_s: float) -> None:
        """Wait until `health_url` returns 200. Raises ProcessError if the process exits before that, or after
        `within_s`."""
        deadline = time.monotonic() + within_s
        async with httpx.AsyncClient(timeout=10.0, trust_env=False) as client:
            while not await _answers(client, health_url):
                if not self.is_running:
                    raise ProcessError(f"{self.command.name} exited before it was ready: {self.last_words()}")
                if time.monotonic() > deadline:
                    raise ProcessError(
                        f"{self.command.name} was not ready within {within_s:.0f} s: {self.last_words()}"
                    )
                await asyncio.sleep(POLL_S)

    async def stop(self, *, grace_s: float = GRACE_S) -> None:
        """Send SIGTERM, then SIGKILL if the process does not exit within `grace_s`, even if this call is cancelled."""
        if self._process is None:
            return
        try:
            self._signal(signal.SIGTERM)
            async with asyncio.timeout(grace_s):
                await self._process.wait()
        except TimeoutError:
            pass
        finally:
            self._signal(signal.SIGKILL)  # the rest of its process group
            await asyncio.shield(self._process.wait())
            await self._outlast_group()

    async def kill(self) -> None:
        """Kill the process, as a crash would."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            await self._process.wait()

    def last_words(self) -> str:
        """Return the end of its log."""
        text = self.command.log.read_text(errors="replace") if self.command.log.exists() else ""
        return "\n".join(text.strip().splitlines()[-LOG_TAIL_LINES:]) or "(no output)"

    async def _outlast_group(self) -> None:
        """Wait until its own children, which are not ours to wait for, have exited too."""
        for _ in range(GONE_POLLS):  # bounded, because a zombie that its parent does not reap stays listed
            if not self._signal(0):
                return
            await asyncio.sleep(POLL_S / 10)

    def _signal(self, number: int) -> bool:
        """Signal the whole process group; return whether it had any process."""
        if self._process is None:
            return False
        try:
            os.killpg(self._process.pid, number)  # it leads its own process group, so its id is the group id
        except ProcessLookupError:
            return False
        return True


def twolane_command(name: str, arguments: Sequence[str], *, environment: Mapping[str, str], logs: Path) -> Command:
    """Return the command that runs `twolane NAME ARGUMENTS` with this interpreter.

    Settings in our own environment are not inherited: the child depends only on the arguments given here. Its temporary
    files are in the folder of its log, so that they are deleted with it.
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
    """Let the kernel kill the child when the parent is killed (Linux only; no effect elsewhere)."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
