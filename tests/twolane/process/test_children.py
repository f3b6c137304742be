"""Children never outlive their parent: neither if they ignore signals, nor if the parent fails, is cancelled or is
killed."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from twolane.process.children import Child, Command, ProcessError, twolane_command
from twolane.process.flags import free_port

pytestmark = pytest.mark.anyio
SLEEPER = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
)
PARENT = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
SERVER = """
import http.server, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"""


def python(code: str, *arguments: str, log: Path) -> Command:
    line = (sys.executable, "-c", code, *arguments)
    return Command(name="child", line=line, environment=dict(os.environ), log=log / "child.log")


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def members(group: int) -> list[int]:
    """The living processes of a group."""
    listed = subprocess.run(["ps", "-eo", "pid=,pgid=,stat="], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in listed.splitlines()]
    return [int(pid) for pid, pgid, stat in rows if int(pgid) == group and not stat.startswith("Z")]


async def until_up(child: Child) -> int:
    async with asyncio.timeout(120):
        while "up" not in child.last_words():  # noqa: ASYNC110 - the file tells nobody when it grows
            await asyncio.sleep(0.01)
    assert child.pid is not None
    return child.pid


async def test_a_child_is_awaited_until_it_serves_and_ended_after(tmp_path: Path) -> None:
    port = free_port()
    async with Child(python(SERVER, str(port), log=tmp_path)) as child:
        await child.serve(f"http://127.0.0.1:{port}/health", within_s=300)
        pid = child.pid
        assert pid is not None
        assert is_alive(pid)
    assert not is_alive(pid)
    assert not child.is_running


async def test_a_child_that_ends_early_is_told_with_its_last_words(tmp_path: Path) -> None:
    async with Child(python("import sys; sys.exit('no such checkpoint')", log=tmp_path)) as child:
        with pytest.raises(ProcessError, match="exited before it was ready: no such checkpoint"):
            await child.serve(f"http://127.0.0.1:{free_port()}/health", within_s=300)


async def test_a_child_that_never_serves_is_given_up(tmp_path: Path) -> None:
    async with Child(python(SLEEPER, log=tmp_path)) as child:
        with pytest.raises(ProcessError, match="was not ready within"):
            await child.serve(f"http://127.0.0.1:{free_port()}/health", within_s=0.3)
    assert not child.is_running


async def test_a_stubborn_child_is_ended_after_its_grace(tmp_path: Path) -> None:
    child = Child(python(STUBBORN, log=tmp_path))
    await child.start()
    pid = await until_up(child)
    await child.stop(grace_s=0.05)
    assert not is_alive(pid)


async def test_children_of_the_child_end_with_it(tmp_path: Path) -> None:
    async with Child(python(PARENT + "print('up', flush=True); time.sleep(600)", log=tmp_path)) as child:
        pid = await until_up(child)
        assert len(members(pid)) == 2
    async with asyncio.timeout(120):
        while members(pid):  # noqa: ASYNC110 - the kernel tells only their parent, which is gone
            await asyncio.sleep(0.01)


async def test_a_failure_inside_ends_the_child(tmp_path: Path) -> None:
    pids: list[int] = []

    async def fail() -> None:
        async with Child(python(SLEEPER, log=tmp_path)) as child:
            pids.append(await until_up(child))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    assert not is_alive(pids[0])


async def test_being_cancelled_twice_still_ends_the_child(tmp_path: Path) -> None:
    pid: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def hold() -> None:
        async with Child(python(STUBBORN, log=tmp_path)) as child:
            pid.set_result(await until_up(child))
            await asyncio.Event().wait()

    task = asyncio.create_task(hold())
    await pid
    task.cancel()
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not is_alive(pid.result())


async def test_a_killed_child_can_be_started_again(tmp_path: Path) -> None:
    async with Child(python(SLEEPER, log=tmp_path)) as child:
        first = await until_up(child)
        await child.kill()
        assert not child.is_running
        await child.start()
        assert child.pid != first
        assert child.is_running


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_a_child_ends_even_if_its_parent_is_killed(tmp_path: Path) -> None:
    code = f"""
import asyncio, os, pathlib, sys
from twolane.process.children import Child, Command
async def main():
    line = (sys.executable, "-c", "import time; time.sleep(600)")
    log = pathlib.Path({str(tmp_path / "log")!r})
    async with Child(Command(name="child", line=line, environment=dict(os.environ), log=log)) as child:
        print(child.pid, flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_alive(pid)
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 120
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_alive(pid)


def test_our_own_settings_are_not_handed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TWOLANE_KEYS_FILE", "/somewhere")
    monkeypatch.setenv("QUALITY_MODEL", "other")
    command = twolane_command("serve", ("--x",), environment={"TWOLANE_PORT": "1"}, logs=tmp_path)
    assert command.environment["TWOLANE_PORT"] == "1"
    assert not {"TWOLANE_KEYS_FILE", "QUALITY_MODEL"} & set(command.environment)
    assert command.line[1:] == ("-m", "twolane", "serve", "--x")
