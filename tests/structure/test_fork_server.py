"""Programs that tests start are forked, and tell no difference from being executed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import fork_server

PROBE = """
import json, logging, os, signal, subprocess, sys
if "start" in sys.argv:
    if "tests.fork_server" in sys.modules:
        sys.modules["tests.fork_server"].MODULES = {"probe"}
    sys.exit(subprocess.run([sys.executable, "-m", "probe"]).returncode)
print(json.dumps({
    "name": __name__, "arguments": sys.argv, "folder": os.getcwd(), "given": os.environ.get("GIVEN"),
    "others": sorted(name for name in os.environ if name.startswith("PYTEST_")),
    "process": os.getpid(), "parent": os.getppid(), "session": os.getsid(0), "input": sys.stdin.read(),
    "term": signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, "handlers": len(logging.root.handlers),
    "forked": "pytest" in sys.modules,
}))
print("to stderr", file=sys.stderr, flush=True)
sys.stdout.flush()
if "wait" in sys.argv:
    os.close(1)
    signal.pause()
if "raise" in sys.argv:
    raise ValueError("as an example")
sys.exit(7)
"""
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts a module of its own, which says what it finds."""
    (tmp_path / "probe.py").write_text(PROBE)
    monkeypatch.setattr(fork_server, "MODULES", {"probe"})

    def popen(*arguments: str, **more: Any) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        line = [sys.executable, "-m", "probe", *arguments]
        given = {"cwd": tmp_path, "stdin": pipe, "stdout": pipe, "stderr": pipe, "text": True, **more}
        return processes.enter_context(subprocess.Popen(line, **given))

    with contextlib.ExitStack() as processes:
        yield popen


def test_a_program_gets_what_popen_gives_it_and_returns_its_exit_code(start: Start, tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    process = start("a", "b c", env={**kept, "GIVEN": "yes"}, start_new_session=True)
    output, errors = process.communicate("some input", timeout=120)
    assert (process.returncode, errors) == (7, "to stderr\n")
    assert json.loads(output) == {
        "name": "__main__", "arguments": [str(tmp_path / "probe.py"), "a", "b c"], "folder": str(tmp_path),
        "given": "yes", "others": [], "process": process.pid, "parent": os.getpid(), "session": process.pid,
        "input": "some input", "term": True, "handlers": 0, "forked": True,
    }  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_a_signal_ends_a_program_as_it_ends_others(start: Start, number: signal.Signals) -> None:
    process = start("wait")
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    assert process.stdout.read()  # to the end: it waits now
    process.send_signal(number)
    assert process.wait(timeout=120) == -number


def test_an_error_ends_a_program_with_1_and_a_traceback(start: Start) -> None:
    process = start("raise")
    _, errors = process.communicate("", timeout=120)
    assert process.returncode == 1
    assert errors.endswith("ValueError: as an example\n")


def test_a_program_that_reads_another_environment_early_is_executed(start: Start) -> None:
    """As torch reads the number of its threads when it is imported."""
    output, _ = start(env={**os.environ, "OMP_NUM_THREADS": "3"}).communicate("", timeout=120)
    assert json.loads(output)["forked"] is False


@pytest.mark.parametrize("is_starting", [True, False])
def test_programs_that_a_program_starts_are_forked_only_if_that_is_listed(
    start: Start, monkeypatch: pytest.MonkeyPatch, is_starting: bool
) -> None:
    monkeypatch.setattr(fork_server, "STARTING", {("probe", "start")} if is_starting else set())
    output, _ = start("start").communicate("", timeout=120)
    assert json.loads(output)["forked"] is is_starting


def test_other_programs_are_executed(tmp_path: Path) -> None:
    line = [sys.executable, "-c", "import sys; print('pytest' in sys.modules)"]
    assert subprocess.run(line, capture_output=True, text=True, check=True).stdout == "False\n"
