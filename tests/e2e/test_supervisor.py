"""Several processes on the same two ports: every request is counted once, also those of a process that has died."""

import asyncio
import contextlib
import json
import os
import re
import resource
import signal
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.gateway.serving import FakeServer, fake_server, says_hello, until_closing
from twolane.process.flags import free_port

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

POLICY = """
version: 1
targets:
  only: {kind: openai, engine: openai, url: "%s", model: m, location: in_cluster}
routes:
  - {name: default, use: only, slo: {p95_ms: 730000}}
"""
BODY = {"model": "auto", "messages": [{"role": "user", "content": "hi"}]}


class Gateway:
    """A parent process, and a client of its children; every request uses its own connection."""

    def __init__(self, process: asyncio.subprocess.Process, public: str, admin: str, log: Path) -> None:
        self.process, self.public, self.admin, self.log = process, public, admin, log

    async def send(self, count: int) -> list[int]:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as http:

            async def one() -> int:
                async with http.post(f"{self.public}/v1/chat/completions", json=BODY) as answer:
                    return answer.status

            return list(await asyncio.gather(*(one() for _ in range(count))))

    async def page(self, accept: str = "") -> str:
        told = {"accept": accept, "connection": "close"}
        async with aiohttp.ClientSession() as http, http.get(f"{self.admin}/metrics", headers=told) as answer:
            return await answer.text()

    async def counted(self) -> float:
        return value(await self.page(), "twolane_requests_total")

    async def until_counted(self, count: int) -> None:
        """Wait, because a request is counted after its response."""
        async with asyncio.timeout(120):
            while await self.counted() < count:  # noqa: ASYNC110 - state of other processes
                await asyncio.sleep(0.05)

    def connect(self, count: int) -> list[socket.socket]:
        """Connections that send nothing yet."""
        host, port = self.public.removeprefix("http://").split(":")
        return [socket.create_connection((host, int(port)), timeout=120) for _ in range(count)]

    def children(self) -> list[int]:
        told = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in told.split()]

    async def until_serving(self, count: int) -> None:
        """Wait until `count` processes have logged that they serve."""
        await until(lambda: self.log.read_text().count(", policy ") >= count)


def proportional_bytes(pid: int) -> int:
    """The memory of a process, of which it counts its share only where others use it, too (proc(5))."""
    [line] = [each for each in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() if each.startswith("Pss:")]
    return int(line.split()[1]) * 1024


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not holds():  # noqa: ASYNC110 - state of other processes
            await asyncio.sleep(0.05)


def value(page: str, name: str) -> float:
    return sum(float(found) for found in re.findall(rf"^{name}(?:{{.*}})? ([0-9.e+]+)", page, re.MULTILINE))


async def started(folder: Path, url: str, *, workers: int, **environment: str) -> Gateway:
    """Start a parent process."""
    policy, log, ports = folder / "policy.yaml", folder / "log", (free_port(), free_port())
    policy.write_text(POLICY % url)
    kept = {name: given for name, given in os.environ.items() if not name.startswith(("TWOLANE_", "PROMETHEUS_"))}
    flags = ("--port", str(ports[0]), "--admin-port", str(ports[1]), "--policy", str(policy))
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "twolane", "serve", "--workers", str(workers), *flags),
            env={**kept, **environment},
            stdout=output,
            stderr=output,
        )
    return Gateway(process, f"http://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}", log)


@contextlib.asynccontextmanager
async def gateway(folder: Path, url: str, *, workers: int = 3) -> AsyncIterator[Gateway]:
    """A parent whose processes all serve."""
    made = await started(folder, url, workers=workers)
    try:
        await made.until_serving(workers)
        yield made
    finally:
        with contextlib.suppress(ProcessLookupError):
            made.process.kill()
        await made.process.wait()


@pytest.fixture(scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[FakeServer, Gateway]]:
    """A gateway of two processes for tests that leave it as it was, and its target."""
    async with fake_server() as server, gateway(tmp_path_factory.mktemp("gateway"), server.url, workers=2) as serving:
        assert set(await serving.send(4)) == {200}  # all processes have started
        yield server, serving


async def test_every_request_is_counted_once_by_any_process_also_after_a_crash(tmp_path: Path) -> None:
    async with fake_server() as server, gateway(tmp_path, server.url) as serving:
        assert set(await serving.send(120)) == {200}
        assert proportional_bytes(serving.process.pid) < 30_000_000  # the parent only accepts connections
        await serving.until_counted(120)
        assert {await serving.counted() for _ in range(8)} == {120.0}
        first = serving.children()
        os.kill(first[0], signal.SIGKILL)
        await serving.until_serving(4)
        assert await serving.counted() == 120.0
        assert set(await serving.send(60)) == {200}
        await serving.until_counted(180)
        assert {await serving.counted() for _ in range(8)} == {180.0}
        assert len(set(serving.children()) & set(first)) == 2
        page = await serving.page("application/openmetrics-text")
        assert 'twolane_lane_latency_seconds_bucket{le="730.0",route="default",target="only"} 180.0' in page
        async with asyncio.timeout(120):  # the other processes publish their gauges every second
            while value(await serving.page(), "twolane_in_flight") != 0:  # noqa: ASYNC110
                await asyncio.sleep(0.2)
        assert page.count("twolane_policy_info{") == 1
        assert page.endswith("# EOF\n")
        serving.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(serving.process.wait(), 120) == 0
    assert len(server.bodies) == 180


async def test_the_console_of_any_process_knows_the_decisions_of_all(shared: tuple[FakeServer, Gateway]) -> None:
    _, serving = shared
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as http:
        for _ in range(6):
            async with http.post(f"{serving.public}/v1/chat/completions", json=BODY) as answer:
                query_id = answer.headers["x-request-id"]
            async with http.get(f"{serving.admin}/console/api/decisions/{query_id}") as found:
                assert (found.status, (await found.json())["id"]) == (200, query_id)
        async with http.get(f"{serving.admin}/console/api/decisions") as listing:
            assert (await listing.json())["scope"] == "gateway"


@pytest.mark.parametrize(
    ("drain_s", "signals"),
    [("0.5", [signal.SIGTERM]), ("600", [signal.SIGINT, signal.SIGINT])],
    ids=["at the end of the drain period", "at a second ctrl-C of the parent alone"],
)
async def test_at_the_end_of_the_drain_every_request_of_every_process_gets_503(
    tmp_path: Path, drain_s: str, signals: list[signal.Signals]
) -> None:
    begun = asyncio.Semaphore(0)

    async def hang(*_: Any) -> Any:
        begun.release()
        await asyncio.sleep(600)

    async with fake_server(hang) as server:
        made = await started(tmp_path, server.url, workers=2, TWOLANE_DRAIN_S=drain_s)
        await made.until_serving(2)
        asking = asyncio.create_task(made.send(16))
        async with asyncio.timeout(120):
            for _ in range(16):
                await begun.acquire()
            for number in signals:
                made.process.send_signal(number)
                await until_closing(made.public)  # the second signal must come after the first
            assert await asking == [503] * 16
            assert await made.process.wait() == 0


async def test_requests_in_flight_are_the_sum_of_all_processes(
    shared: tuple[FakeServer, Gateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, serving = shared
    release = asyncio.Event()

    async def slow(request: Any, body: Any) -> Any:
        await release.wait()
        return await says_hello(request, body)

    monkeypatch.setattr(server, "answer", slow)
    asking = asyncio.create_task(serving.send(12))
    async with asyncio.timeout(120):
        while value(await serving.page(), "twolane_in_flight") != 12:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
    release.set()
    assert set(await asking) == {200}


async def test_children_exit_when_their_parent_is_killed(tmp_path: Path) -> None:
    async with fake_server() as server, gateway(tmp_path, server.url, workers=2) as serving:
        children = serving.children()
        assert len(children) == 2
        serving.process.kill()
        await until(lambda: not any(_lives(pid) for pid in children))


def _lives(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


async def test_a_failed_start_ends_all_processes_with_its_exit_code(tmp_path: Path) -> None:
    missing = str(tmp_path / "no" / "keys")
    made = await started(tmp_path, "http://127.0.0.1:1", workers=2, TWOLANE_KEYS_FILE=missing)
    assert await asyncio.wait_for(made.process.wait(), 120) == 2
    assert missing in made.log.read_text()


async def test_a_process_that_crashes_repeatedly_is_not_restarted_forever(tmp_path: Path) -> None:
    async with fake_server() as server, gateway(tmp_path, server.url, workers=1 + 1) as serving:
        while serving.process.returncode is None:
            for pid in serving.children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(serving.process.wait(), 0.2)
    assert serving.process.returncode == 1


def held_by(pids: list[int], connections: list[socket.socket]) -> Counter[int]:
    """How many of the connections each process holds, by /proc/net/tcp (proc(5)): our port is its remote port."""
    ours = {each.getsockname()[1] for each in connections}
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inodes = {f"socket:[{row[9]}]" for row in rows if int(row[2].rpartition(":")[2], 16) in ours}
    held = Counter[int]()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                held[pid] += os.readlink(link) in inodes
    return held


def answers(connections: list[socket.socket]) -> list[bytes]:
    """Send a request on each connection, and read the status line of its response; closes them."""
    body = json.dumps(BODY).encode()
    for each in connections:
        each.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
        )
    return [_status_line(each) for each in connections]


def _status_line(connection: socket.socket) -> bytes:
    with connection:
        return connection.recv(15)


@pytest.mark.parametrize("is_loaded", [False, True])
async def test_of_64_new_connections_no_process_takes_more_than_one_and_a_half_shares(
    shared: tuple[FakeServer, Gateway], is_loaded: bool
) -> None:
    _, serving = shared
    load = [asyncio.create_task(serving.send(8)) for _ in range(8 if is_loaded else 0)]
    await asyncio.sleep(0)
    connections = await asyncio.to_thread(serving.connect, 64)
    await asyncio.gather(*load)
    await until(lambda: sum(held.values()) == 64 if (held := held_by(serving.children(), connections)) else False)
    assert max(held_by(serving.children(), connections).values()) <= 48
    for each in connections:
        each.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_process_that_ends_resets_no_connection_that_waits_for_it(
    tmp_path: Path, number: signal.Signals
) -> None:
    async with fake_server() as server, gateway(tmp_path, server.url, workers=2) as serving:
        assert set(await serving.send(4)) == {200}
        stopped = serving.children()[0]
        os.kill(stopped, signal.SIGSTOP)  # connections that it is handed wait
        connections = await asyncio.to_thread(serving.connect, 32)
        asking = asyncio.create_task(asyncio.to_thread(answers, connections))
        await asyncio.sleep(0.2)
        assert not asking.done()
        os.kill(stopped, number)
        os.kill(stopped, signal.SIGCONT)
        assert set(await asking) == {b"HTTP/1.1 200 OK"}


async def test_a_gateway_that_ends_resets_no_connection_that_waits_to_be_accepted(tmp_path: Path) -> None:
    """More than are accepted in one turn; the parent cannot know yet whether its processes will take them. On a slow
    machine, requests are late and the gateway refuses them, as it does while it drains."""
    async with fake_server() as server, gateway(tmp_path, server.url, workers=2) as serving:
        assert set(await serving.send(4)) == {200}
        everybody = [serving.process.pid, *serving.children()]
        for pid in everybody:
            os.kill(pid, signal.SIGSTOP)
        connections = await asyncio.to_thread(serving.connect, 200)
        asking = asyncio.create_task(asyncio.to_thread(answers, connections))
        serving.process.send_signal(signal.SIGTERM)
        for pid in everybody:
            os.kill(pid, signal.SIGCONT)
        assert set(await asking) <= {b"HTTP/1.1 200 OK", b"HTTP/1.1 503 Se"}
        assert await asyncio.wait_for(serving.process.wait(), 120) == 0


async def test_a_flood_of_connections_beyond_the_open_files_passes_and_leaves_nothing(tmp_path: Path) -> None:
    async with fake_server() as server, gateway(tmp_path, server.url, workers=2) as serving:
        assert set(await serving.send(4)) == {200}
        children = serving.children()
        before = {pid: descriptors(pid) for pid in children}
        for pid in children:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (before[pid] + 20, before[pid] + 20))
        flood = await asyncio.to_thread(serving.connect, 150)
        await until(lambda: all(descriptors(pid) >= before[pid] + 20 for pid in children))
        for each in flood:
            each.close()
        # Requests that are accepted among the last of the flood may find no descriptor left for their target.
        async with asyncio.timeout(120):
            while set(await serving.send(6)) != {200}:
                pass
        assert set(await serving.send(6)) == {200}
        assert serving.children() == children
        await until(lambda: all(descriptors(pid) <= before[pid] + 4 for pid in children))


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
