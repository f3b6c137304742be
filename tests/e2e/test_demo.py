"""The demo as users run it: all cases pass, the requests of the README work as printed, and it leaves no process
behind, however it ends."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.e2e.readme import PRINTED, block

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


def demo(
    *arguments: str, before: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    line = [*before, sys.executable, "-m", "twolane", "demo", "--free-ports", *arguments]
    given = {**os.environ, **(environment or {})}
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=given)


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
def test_a_terminated_demo_ends_all_its_processes(mark: str, tmp_path: Path) -> None:
    with demo("--once") as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "Gateway:" in line:
                break
        assert len(marked(mark)) >= 4
        process.send_signal(signal.SIGTERM)
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
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=500) == 1


@dataclass(frozen=True)
class Serving:
    """A demo that serves until it is told to end: `example` is the URL of the request that it prints."""

    process: subprocess.Popen[str]
    mark: str
    folder: Path  # for temporary files
    gateway: str
    example: str


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """One demo for the tests below; the last of them ends it."""
    mark, folder = uuid.uuid4().hex, tmp_path_factory.mktemp("demo")
    with demo("--serve-only", environment={MARK: mark, "TMPDIR": str(folder)}) as process:
        try:
            assert process.stdout is not None
            gateway = next(
                found[1] for line in process.stdout if (found := re.search(r"Gateway: (http://[\d.:]+)", line))
            )
            example = next(line for line in process.stdout if "curl" in line).split()[2]
            yield Serving(process, mark, folder, gateway, example)
        finally:
            process.terminate()


@pytest.mark.timeout(1800)
def test_the_curl_of_the_readme_works_as_printed(serving: Serving) -> None:
    """The response is correct, and the headers name its lane."""
    command = block("sh", "curl").replace(PRINTED, serving.gateway)
    told = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=500, check=True).stdout
    head, body = told.replace("\r", "").split("\n\n", 1)
    assert head.startswith("HTTP/1.1 200")
    assert "x-twolane-attempts: careful=ok" in head
    assert json.loads(body)["choices"][0]["message"]["content"] == "fix broken token in api"


@pytest.mark.timeout(1800)
def test_the_snippet_of_the_readme_works_as_printed(serving: Serving) -> None:
    """The order is valid for its schema."""
    program = block("python", "from openai").replace(PRINTED, serving.gateway)
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=500, check=True)
    assert json.loads(told.stdout) == {"name": "anna", "qty": 3, "item": "red lamp", "day": "monday"}


@pytest.mark.timeout(1800)
def test_without_once_it_serves_until_ctrl_c(serving: Serving) -> None:
    """The example request that the demo prints works, on the port that it prints."""
    answer = httpx.post(
        serving.example,
        json={
            "model": "auto",
            "seed": 1,
            "metadata": {"task": "edit"},
            "messages": [{"role": "user", "content": "Clean up this commit subject: Fixed brokn token in api"}],
        },
        timeout=120,
    )
    serving.process.send_signal(signal.SIGINT)
    assert serving.process.wait(timeout=500) == 0
    assert serving.process.stderr is not None
    assert serving.process.stderr.read() == ""
    assert list(serving.folder.iterdir()) == marked(serving.mark) == []
    assert answer.json()["choices"][0]["message"]["content"] == "fix broken token in api"
    assert answer.headers["x-twolane-attempts"] == "careful=ok"
