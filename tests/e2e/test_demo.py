"""The demo as a person runs it: every row comes out as stated, and no way of ending it leaves a process behind."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")]
MARK = "TOUR_TEST_MARK"


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """A word in the environment that every process of this test inherits; none of them may be left."""
    word = uuid.uuid4().hex
    monkeypatch.setenv(MARK, word)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    yield word
    monkeypatch.delenv(MARK)
    assert marked(word) == []


def marked(word: str) -> list[str]:
    """The command lines of living processes that carry the mark, but for this one."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment, line = (folder / "environ").read_bytes(), (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if f"{MARK}={word}".encode() in environment and int(folder.name) != os.getpid():
            found.append(line.replace(b"\0", b" ").decode())
    return found


def demo(*arguments: str) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "twolane", "demo", "--free-ports", *arguments]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.timeout(1800)
def test_the_tour_comes_out_as_stated(mark: str) -> None:
    with demo("--once") as process:
        told, complaints = process.communicate(timeout=1700)
    assert process.returncode == 0, told + complaints
    assert "cases passed" in told
    assert "✗" not in told


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_tour_that_is_interrupted_ends_everything_it_started(
    mark: str, number: signal.Signals, tmp_path: Path
) -> None:
    with demo("--once") as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "Gateway:" in line:
                break
        assert len(marked(mark)) >= 4
        process.send_signal(number)
        assert process.wait(timeout=120) == 1
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.timeout(1800)
def test_a_worker_that_cannot_start_is_told_and_the_others_are_ended(mark: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with demo("--once", "--checkpoint", str(tmp_path)) as process:
        told, complaints = process.communicate(timeout=1700)
    assert process.returncode == 1, told
    assert "worker ended before it served" in complaints
    assert "Traceback" not in complaints


@pytest.mark.timeout(1800)
def test_interrupted_while_it_starts_it_still_ends_everything(mark: str) -> None:
    with demo("--once") as process:
        deadline = time.monotonic() + 120
        while len(marked(mark)) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == 1


@pytest.mark.timeout(1800)
def test_without_once_it_serves_until_ctrl_c(mark: str) -> None:
    """The request of the README works as printed, but for the port that the demo says it took."""
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
        assert process.wait(timeout=120) == 0
    assert answer.json()["choices"][0]["message"]["content"] == "fix broken token in api"
    assert answer.headers["x-twolane-attempts"] == "fast=ok"
