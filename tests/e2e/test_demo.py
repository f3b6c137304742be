"""The demo as users run it: all cases pass, and it leaves no process behind, however it ends."""

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")]
MARK = "DEMO_TEST_MARK"


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """A variable that every process of this test inherits, to check that none of them is left."""
    word = uuid.uuid4().hex
    monkeypatch.setenv(MARK, word)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    yield word
    monkeypatch.delenv(MARK)
    assert marked(word) == []


def marked(word: str) -> list[str]:
    """The command lines of other running processes with this mark."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment, line = (folder / "environ").read_bytes(), (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if f"{MARK}={word}".encode() in environment and int(folder.name) != os.getpid():
            found.append(line.replace(b"\0", b" ").decode())
    return found


def demo(*arguments: str, before: Sequence[str] = ()) -> subprocess.Popen[str]:
    line = [*before, sys.executable, "-m", "twolane", "demo", "--free-ports", *arguments]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def without_network() -> Sequence[str]:
    """The start of a command line that runs the rest in a network namespace whose only interface is loopback; empty
    where that needs root."""
    if not shutil.which("unshare") or os.getuid() != 0:
        return ()
    up = (
        "import fcntl, os, socket, struct, sys\n"
        "fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sh14x', b'lo', 0x41))\n"  # SIOCSIFFLAGS: up and running
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    return ("unshare", "--net", "env", "-u", "HTTPS_PROXY", "-u", "HTTP_PROXY", sys.executable, "-c", up)


@pytest.mark.timeout(1800)
def test_all_cases_pass_without_any_network_but_loopback(mark: str) -> None:
    with demo("--once", before=without_network()) as process:
        output, errors = process.communicate(timeout=1700)
    assert process.returncode == 0, output + errors
    assert "cases passed" in output
    assert "✗" not in output


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_demo_ends_all_its_processes(mark: str, number: signal.Signals, tmp_path: Path) -> None:
    with demo("--once") as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "Gateway:" in line:
                break
        assert len(marked(mark)) >= 4
        process.send_signal(number)
        assert process.wait(timeout=500) == 1
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.timeout(1800)
def test_a_worker_that_cannot_start_is_reported_and_the_others_are_ended(mark: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with demo("--once", "--checkpoint", str(tmp_path)) as process:
        output, errors = process.communicate(timeout=1700)
    assert process.returncode == 1, output
    assert "worker exited before it was ready" in errors
    assert "Traceback" not in errors


@pytest.mark.timeout(1800)
def test_an_interrupt_during_the_start_ends_all_processes(mark: str) -> None:
    with demo("--once") as process:
        deadline = time.monotonic() + 120
        while len(marked(mark)) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=500) == 1


@pytest.mark.timeout(1800)
def test_without_once_it_serves_until_ctrl_c(mark: str) -> None:
    """The example request that the demo prints works, on the port that it prints."""
    with demo("--serve-only") as process:
        assert process.stdout is not None
        url = next(line for line in process.stdout if "curl" in line).split()[2]
        answer = httpx.post(
            url,
            json={
                "model": "auto",
                "seed": 1,
                "metadata": {"task": "edit"},
                "messages": [{"role": "user", "content": "Clean up this commit subject: Fixed brokn token in api"}],
            },
            timeout=120,
        )
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=500) == 0
    assert answer.json()["choices"][0]["message"]["content"] == "fix broken token in api"
    assert answer.headers["x-twolane-attempts"] == "careful=ok"
