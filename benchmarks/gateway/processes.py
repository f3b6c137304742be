"""Child processes of the benchmark: started on one processor, with their CPU time and memory (proc(5))."""

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from benchmarks.gateway.servers import Ports, Server

PROCESSORS: Final = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
START_S: Final = 120.0
_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A server that listens."""

    server: Server
    pid: int
    port: int

    def cpu_s(self) -> float:
        """User and system time of the process, its descendants and those that it has waited for."""
        return sum(_cpu_s(pid) for pid in tree(self.pid))

    def rss_mb(self) -> float:
        """Resident memory of the process and its descendants."""
        pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in tree(self.pid))
        return pages * _PAGE_BYTES / 1e6


def require_processors() -> None:
    """Raises SystemExit unless the server and the load can have a processor each."""
    if len(PROCESSORS) < 2:
        raise SystemExit("needs two processors: one for the server, one for the load and the mock upstream")


def pin(pid: int, index: int) -> None:
    """Run a process on one of the first two processors, so that the load does not take the server's time."""
    if len(PROCESSORS) > 1:
        os.sched_setaffinity(pid, {PROCESSORS[index]})


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nothing uses now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@contextmanager
def listening(server: Server, upstream_port: int, *, environment: Mapping[str, str] | None = None) -> Iterator[Running]:
    """Run a server on the first processor. Raises RuntimeError if it does not listen in time."""
    own, admin = free_ports(2)
    with tempfile.TemporaryDirectory(prefix="bench-") as place:
        folder = Path(place)
        command = server.prepare(folder, Ports(own=own, admin=admin, upstream=upstream_port))
        given = {**os.environ, **server.environment, **(environment or {})}
        with running(command, index=0, environment=given, errors=folder / "stderr") as process:
            port = _port(folder, process) if server.chooses_port else own
            if not _wait(process, port):
                said = (folder / "stderr").read_text(errors="replace").strip().splitlines()[-1:]
                raise RuntimeError(f"{server.name} does not listen: {''.join(said)[:300]}")
            yield Running(server=server, pid=process.pid, port=port)


@contextmanager
def running(
    command: list[str], *, index: int, environment: Mapping[str, str] | None = None, errors: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command on one processor, and end it with its descendants."""
    taskset = ["taskset", "-c", str(PROCESSORS[index])] if len(PROCESSORS) > 1 else []
    with (
        open(errors or os.devnull, "wb") as said,
        subprocess.Popen(
            [*taskset, *command], stdout=said, stderr=said, env=environment, start_new_session=True
        ) as process,
    ):
        try:
            yield process
        finally:
            _end(process)


def wait_for(process: subprocess.Popen[bytes], port: int) -> None:
    """Raises RuntimeError if the process does not listen in time."""
    if not _wait(process, port):
        raise RuntimeError("the mock upstream does not listen")


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    found, parents = [pid], [pid]
    while parents:
        children = [child for parent in parents for child in _children(parent)]
        found += children
        parents = children
    return found


def _children(pid: int) -> list[int]:
    """Children of every thread of a process."""
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(child) for thread in threads for child in (thread / "children").read_text().split()]
    except OSError:  # it has ended
        return []


def _cpu_s(pid: int) -> float:
    """proc(5), stat: fields 14 to 17."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) * _TICK_S


def _port(folder: Path, process: subprocess.Popen[bytes]) -> int:
    """The port that a server has chosen; 0 if it ended before."""
    file, deadline_s = folder / "url", time.monotonic() + START_S
    while time.monotonic() < deadline_s and process.poll() is None:
        if file.exists() and (url := file.read_text()):
            return urlsplit(url).port or 0
        time.sleep(0.05)
    return 0


def _wait(process: subprocess.Popen[bytes], port: int) -> bool:
    deadline_s = time.monotonic() + START_S
    while port and process.poll() is None and time.monotonic() < deadline_s:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return True
        time.sleep(0.05)
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """Its session is its own, so its descendants are those of the process group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(timeout=10)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
