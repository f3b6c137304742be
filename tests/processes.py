"""A pytest plugin: `--processes N` runs the tests in N processes, which are forked once all tests are collected.

Collecting all tests takes about ten seconds of processor time, most of it imports of torch and transformers. Processes
that are started one by one (pytest-xdist) take them each; a forked process shares modules and tests with its parent.

The tests of a file run in one process, in order, so that a fixture of a module is made once. A process that has no test
left gets the next file. If a process crashes, the test that it was running has failed; another process runs the rest.
A test that hangs where its timeout's signal is not handled, as in an event loop of uvloop, is ended with its process.
"""

import atexit
import itertools
import os
import random
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from _pytest.capture import FDCapture
from _pytest.tmpdir import TempPathFactory

from tests.fork_server import forking

Report = dict[str, Any]  # a report that pytest has serialized

_LOOK_S = 1.0
_PATIENCE = 1.1  # times its timeout, a test may take: it ends itself first, if it can


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--processes", type=int, default=1, metavar="N", help="run the tests in this many processes")


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    option = session.config.option
    if option.processes < 2 or option.collectonly or option.usepdb or session.testsfailed:
        return None  # pytest's own loop
    if len(threads := threading.enumerate()) > 1:
        raise pytest.UsageError(f"--processes: a process with several threads cannot be forked: {threads}")
    with _Processes(session) as processes:
        processes.run(option.processes)
    return True


@dataclass(slots=True)
class _Process:
    """A forked process, as its parent knows it: `left` are the numbers of tests that it has and has not reported. Its
    last message arrived `since_s`."""

    pid: int
    left: deque[int] = field(default_factory=deque)
    since_s: float = field(default_factory=time.monotonic)


class _Processes:
    """The parent's side: hands out files, and passes reports to pytest."""

    def __init__(self, session: pytest.Session) -> None:
        self._session = session
        numbered = itertools.groupby(enumerate(session.items), key=lambda pair: pair[1].path)
        self._files = deque(deque(number for number, _ in group) for _, group in numbered)
        self._processes: dict[Connection, _Process] = {}
        self._started = itertools.count()

    def __enter__(self) -> "_Processes":
        return self

    def __exit__(self, *_: object) -> None:
        """Interrupt the processes that still run."""
        for connection, process in self._processes.items():
            connection.close()
            os.kill(process.pid, signal.SIGINT)
        for process in self._processes.values():
            os.waitpid(process.pid, 0)

    def run(self, count: int) -> None:
        for _ in range(min(count, len(self._files))):
            self._start()
        while self._processes:
            for ready in wait(list(self._processes), timeout=_LOOK_S):
                assert isinstance(ready, Connection)
                self._serve(ready)
                if self._session.shouldfail:
                    raise self._session.Failed(self._session.shouldfail)
                if self._session.shouldstop:
                    raise self._session.Interrupted(self._session.shouldstop)
            for process in self._processes.values():
                if process.left and time.monotonic() - process.since_s > self._limit_s(process.left[0]):
                    os.kill(process.pid, signal.SIGABRT)  # all stacks are printed

    def _limit_s(self, number: int) -> float:
        """How long a test may take."""
        if marker := self._session.items[number].get_closest_marker("timeout"):
            return _PATIENCE * float(marker.args[0])
        config = self._session.config
        return _PATIENCE * float(config.getini("timeout") if config.pluginmanager.hasplugin("timeout") else "inf")

    def _start(self) -> None:
        base = self._session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
        ours, theirs = Pipe()
        number = next(self._started)
        sys.stdout.flush()  # or else both processes would print what is buffered
        pid = os.fork()
        if pid == 0:
            for other in (ours, *self._processes):
                other.close()  # or else no process would notice that its parent has ended
            _Worker(self._session, theirs).live(base / f"process-{number}")
        theirs.close()
        self._processes[ours] = _Process(pid)

    def _serve(self, connection: Connection) -> None:
        """Take the reports of a test. If it was the last of its file, hand out another; no tests if no file is left."""
        process = self._processes[connection]
        process.since_s = time.monotonic()
        try:
            reports: list[Report] = connection.recv()
            if reports:
                process.left.popleft()
                self._pass_on(reports)
            if not process.left:
                process.left = self._files.popleft() if self._files else deque()
                connection.send(list(process.left))
        except (EOFError, ConnectionError):
            self._bury(connection)

    def _pass_on(self, reports: list[Report]) -> None:
        config = self._session.config
        for data in reports:
            report = config.hook.pytest_report_from_serializable(config=config, data=data)
            config.hook.pytest_runtest_logreport(report=report)

    def _bury(self, connection: Connection) -> None:
        """A process has ended: without tests, because none were left, or during one."""
        connection.close()
        process = self._processes.pop(connection)
        status = os.waitstatus_to_exitcode(os.waitpid(process.pid, 0)[1])
        if not process.left:
            assert status == 0, f"a test process ended between two tests: {status}"
            return
        item = self._session.items[process.left.popleft()]
        report = pytest.TestReport(
            nodeid=item.nodeid,
            location=item.location,
            keywords={},
            outcome="failed",
            longrepr=f"the process ended during this test: {status}",
            when="call",
        )
        self._session.config.hook.pytest_runtest_logreport(report=report)
        if process.left:
            self._files.appendleft(process.left)
        if self._files:
            self._start()


class _Worker:
    """A forked process's own side: runs the tests that it gets."""

    def __init__(self, session: pytest.Session, connection: Connection) -> None:
        self._session = session
        self._connection = connection
        self._reports: list[Report] = []

    def live(self, base: Path) -> NoReturn:
        """Run tests until none are left or the parent has ended, and end this process."""
        status = 1
        try:
            self._part_from_parent(base)
            with forking():
                with suppress(EOFError, ConnectionError):
                    self._run()
                    status = 0
                self._session._setupstate.teardown_exact(None)
            atexit._run_exitfuncs()
        except KeyboardInterrupt:
            self._session._setupstate.teardown_exact(None)
        except BaseException:
            traceback.print_exc()
            status = 1
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def _part_from_parent(self, base: Path) -> None:
        """Share neither temporary directories nor captured output nor random numbers; let the parent print."""
        config, plugins = self._session.config, self._session.config.pluginmanager
        atexit.unregister(config._tmp_path_factory._exit_stack.close)  # type: ignore[attr-defined]
        config._tmp_path_factory = TempPathFactory(base, 3, "all", config.trace.get("tmpdir"), _ispytest=True)  # type: ignore[attr-defined]
        captured: Any = plugins.get_plugin("capturemanager")
        for stream in (captured._global_capturing.out, captured._global_capturing.err):
            if isinstance(stream, FDCapture):  # in place, because handlers of libraries keep the stream
                with tempfile.TemporaryFile() as own:
                    os.dup2(own.fileno(), stream.tmpfile.fileno())
        writer = config.get_terminal_writer()
        plugins.unregister(name="terminalreporter")
        plugins.register(SimpleNamespace(_tw=writer), "terminalreporter")  # a timeout prints all stacks there
        plugins.register(self)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start background processes that ignore it
        random.seed()

    def _run(self) -> None:
        self._connection.send([])
        while numbers := self._connection.recv():
            items = [self._session.items[number] for number in numbers]
            for item, following in itertools.pairwise([*items, self._session]):
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
                self._connection.send(self._reports)
                self._reports = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        config = self._session.config
        self._reports.append(config.hook.pytest_report_to_serializable(config=config, report=report))
