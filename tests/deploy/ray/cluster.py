"""A Ray cluster on loopback with the shipped Serve configuration, run in an environment of its own."""

import asyncio
import os
import shutil
import signal
import tempfile
import uuid
from pathlib import Path
from typing import Any, Self

import httpx
import yaml

from tests.deploy.ray.environment import ROOT, build
from twolane.process.flags import free_port

CONFIGURATION = ROOT / "deploy" / "ray" / "serve.yaml"
ADDRESS = "127.0.0.2"  # Ray replaces 127.0.0.1 by an address of a network
REPLICA = "ray::ServeReplica:"
MARK = "RAY_TEST_MARK"  # in the environment of every process of a cluster
WITHIN_S = 600.0


class Cluster:
    """`async with Cluster(folder) as cluster:` serves until the block ends; no process of it is left."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._mark, self._port = folder, uuid.uuid4().hex, free_port()
        self._serve_port = free_port()
        self.url = f"http://127.0.0.1:{self._serve_port}"
        self._files = tempfile.mkdtemp(prefix="ray", dir="/tmp")

    async def __aenter__(self) -> Self:
        try:
            self._programs = await asyncio.to_thread(build) / "bin"
            start = (
                "start",
                "--head",
                "--node-ip-address",
                ADDRESS,
                "--port",
                str(self._port),
                "--temp-dir",
                self._files,
            )
            more = ("--num-cpus", "4", "--object-store-memory", "80000000", "--include-dashboard", "false")
            await self._run("ray", *start, *more, "--disable-usage-stats")
            await self._run("serve", "run", "--non-blocking", str(self._configuration()))
            await self._run("python", str(Path(__file__).parent / "wait.py"))
            await self._until_routed()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        while processes := self._processes():
            for pid in processes:
                _kill(pid)
            await asyncio.sleep(0.1)
        shutil.rmtree(self._files, ignore_errors=True)

    def replicas(self) -> list[int]:
        """The process ids of all replicas."""
        return [pid for pid, name in self._processes().items() if name.startswith(REPLICA)]

    def _configuration(self) -> Path:
        """The shipped file, with the small checkpoint, a free port, and replicas that share two cores."""
        shipped: dict[str, Any] = yaml.safe_load(CONFIGURATION.read_text())
        shipped["http_options"]["port"] = self._serve_port
        (application,) = shipped["applications"]
        variables = {"TWOLANE_WORKER_CHECKPOINT": str(ROOT / "checkpoints/twolane-tiny"), "TWOLANE_WORKER_THREADS": "1"}
        application["runtime_env"]["env_vars"] |= variables
        file = self._folder / "serve.yaml"
        file.write_text(yaml.safe_dump(shipped))
        return file

    async def _until_routed(self) -> None:
        """The proxy hears of the application after it runs."""
        async with asyncio.timeout(WITHIN_S), httpx.AsyncClient(trust_env=False) as client:
            while not (await client.get(f"{self.url}/health")).is_success:  # noqa: ASYNC110 - of another process
                await asyncio.sleep(0.1)

    async def _run(self, program: str, *line: str) -> None:
        environment = os.environ | {
            MARK: self._mark,
            "PATH": f"{self._programs}:{os.environ['PATH']}",
            "RAY_ADDRESS": "" if program == "ray" else f"{ADDRESS}:{self._port}",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        log = self._folder / f"ray-{program}.log"
        with log.open("ab") as said:  # a file: the processes that it leaves keep it open
            command = (str(self._programs / program), *line)
            process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=said, stderr=said)
            async with asyncio.timeout(WITHIN_S):
                await process.wait()
        assert process.returncode == 0, log.read_text()

    def _processes(self) -> dict[int, str]:
        """Name by process id of all processes that carry the mark."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if self._mark.encode() in (folder / "environ").read_bytes() and not _is_zombie(folder):
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue  # it has ended, or belongs to another user
        return found


def _is_zombie(folder: Path) -> bool:
    return (folder / "stat").read_text().rpartition(")")[2].split()[0] == "Z"


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
