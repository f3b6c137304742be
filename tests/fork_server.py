"""A pytest plugin: programs of ours that tests start are forked instead of executed.

A worker imports torch and transformers, which takes three seconds of processor time, and the tests start dozens. The
test process imported both when it collected the tests. Before the first test, while it has one thread and no state of a
test, it forks a server, which forks each program. A program gets the arguments, environment, folder, standard streams,
session and signals that `subprocess.Popen` gives it, and is a child of the test process, which waits for it, kills it
and counts its processor time as of any other.

Only lines of the form `sys.executable -m MODULE ARGUMENTS` are forked, and only the modules below. Programs that other
programs start are executed: tests of the demo and of the wheel run workers and gateways as users start them. The
exception is `twolane chaos`, which starts six programs and restarts those that it killed, and forks them in turn.
"""

import atexit
import contextlib
import faulthandler
import gc
import io
import logging
import os
import pickle
import runpy
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Generator, Mapping
from ctypes import CDLL
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import pytest

MODULES: Final = {
    "diffusion_worker",
    "diffusion_worker.constraint_service.compiler_process",
    "diffusion_worker.constraint_service.validator_process",
    "gateway",
    "training.evaluate",
    "twolane",
}
COMMANDS: Final = {"worker", "quality", "serve", "tune", "chaos"}  # of twolane; others start programs themselves
STARTING: Final = {("twolane", "chaos")}  # these fork the programs that they start
READ_EARLY: Final = ("PYTHON", "LD_", "OMP_", "MKL_", "TORCH", "HF_", "TRANSFORMERS_")  # when modules are imported
PR_SET_CHILD_SUBREAPER: Final = 36  # linux/prctl.h

_fork_exec: Callable[..., int] = subprocess._fork_exec  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A program to start. Its file descriptors are sent beside it: the standard streams, then `kept`."""

    arguments: list[str]
    folder: str
    environment: Mapping[str, str]
    kept: tuple[int, ...]  # file descriptors that the program inherits under the same numbers
    new_session: bool
    process_group: int
    before: Callable[[], object] | None  # called in the program first
    is_starting: bool  # it forks our programs that it starts


class ForkServer:
    """The test process's side: `fork_exec` takes the place of the function with which `subprocess` starts programs."""

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._executable, self._early = sys.executable, _early(os.environ)
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair()
        sys.stdout.flush()  # or else both processes would print what is buffered
        sys.stderr.flush()
        self._pid = os.fork()
        if self._pid == 0:
            self._socket.close()
            _serve(theirs)
        theirs.close()

    def close(self) -> None:
        """End the server; programs that it forked go on."""
        if os.getpid() == self._owner:
            self._socket.close()
            os.waitpid(self._pid, 0)

    def fork_exec(self, *given: Any) -> int:
        """As `_posixsubprocess.fork_exec`, whose arguments have no names."""
        start = self._start(given)
        if start is None:
            return _fork_exec(*given)
        streams = [stream if stream != -1 else number for number, stream in enumerate((given[6], given[9], given[11]))]
        with self._lock, _adopting():
            socket.send_fds(self._socket, [b"-"], [*streams, *start.kept])
            data = pickle.dumps(start)
            self._socket.sendall(struct.pack("!I", len(data)) + data)
            [pid] = struct.unpack("!i", _exactly(self._socket, 4))
        return int(pid)

    def _start(self, given: tuple[Any, ...]) -> Start | None:
        """What to fork; None: it must be executed."""
        line, _, _, kept, folder, listed = given[:6]
        line = [os.fsdecode(word) for word in line]
        environment = dict(os.environ) if listed is None else dict(os.fsdecode(each).split("=", 1) for each in listed)
        error_pipe, others = given[13], given[17:21]  # group, groups, user, mask of files
        is_ours = (
            len(line) > 2
            and line[:2] == [self._executable, "-m"]
            and line[2] in MODULES
            and (line[2] != "twolane" or not COMMANDS.isdisjoint(line[3:4]))
            and "--workers" not in line  # its memory is measured
        )
        if not is_ours or os.getpid() != self._owner or others != (None, None, None, -1):
            return None
        if _early(environment) != self._early:
            return None
        return Start(
            arguments=line,
            folder=os.getcwd() if folder is None else os.fsdecode(folder),
            environment=environment,
            kept=tuple(number for number in kept if number != error_pipe),
            new_session=bool(given[15]),
            process_group=given[16],
            before=given[21],
            is_starting=tuple(line[2:4]) in STARTING,
        )


def _early(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(READ_EARLY)}


@contextlib.contextmanager
def _adopting() -> Generator[None]:
    """Let this process become the parent of the orphans among its descendants, as the server makes each program one."""
    libc = CDLL(None, use_errno=True)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def _serve(connection: socket.socket) -> NoReturn:
    """Fork a program for each request until the test process closes the connection or ends."""
    status = 1
    try:
        for number in (signal.SIGINT, signal.SIGALRM):  # for the test process alone
            signal.signal(number, signal.SIG_IGN)
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                _fork_one(connection)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _fork_one(connection: socket.socket) -> None:
    _, sent, _, _ = socket.recv_fds(connection, 1, 253)
    [length] = struct.unpack("!I", _exactly(connection, 4))
    start: Start = pickle.loads(_exactly(connection, length))
    reading, writing = os.pipe()
    between = os.fork()
    if between == 0:
        own = os.getpid()
        program = os.fork()
        if program:
            os.write(writing, struct.pack("!i", program))
            os._exit(0)
        connection.close()
        os.close(reading)
        os.close(writing)
        while os.getppid() == own:  # until the test process is the parent
            time.sleep(0.0002)
        _become(start, sent)
    os.close(writing)
    for each in sent:
        os.close(each)
    os.waitpid(between, 0)
    connection.sendall(os.read(reading, 4))
    os.close(reading)


def _become(start: Start, sent: list[int]) -> NoReturn:
    """Be the program, from its first line to its exit status."""
    status = 1
    try:
        _take_streams(start, sent)
        _take_session(start)
        _forget_pytest()
        _take_place(start)
        with forking() if start.is_starting else contextlib.nullcontext():
            status = _run(start.arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)


def _take_streams(start: Start, sent: list[int]) -> None:
    """Put the file descriptors in their places, whatever places those that were sent have, and close the rest."""
    places = (0, 1, 2, *start.kept)
    high = [os.dup2(number, 1000 + place) for place, number in enumerate(sent)]
    for place, number in zip(places, high, strict=True):
        os.dup2(number, place, inheritable=True)
    for number in (*high, *(each for each in sent if each not in places)):
        os.close(number)
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.__stderr__ = io.TextIOWrapper(
        io.FileIO(2, "w", closefd=False),
        encoding="utf-8",
        errors="backslashreplace",
        line_buffering=True,
        write_through=True,
    )


def _take_session(start: Start) -> None:
    if start.new_session:
        os.setsid()
    if start.process_group >= 0:
        os.setpgid(0, start.process_group)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    if start.before is not None:
        start.before()


def _forget_pytest() -> None:
    """Have the settings that a fresh interpreter has."""
    faulthandler.disable()
    atexit._clear()
    sys.excepthook, sys.unraisablehook = sys.__excepthook__, sys.__unraisablehook__
    threading.excepthook = threading.__excepthook__
    gc.set_threshold(700, 10, 10)
    logging.root.handlers.clear()
    logging.root.setLevel(logging.WARNING)
    warnings.resetwarnings()
    for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", category, append=True)


def _take_place(start: Start) -> None:
    os.chdir(start.folder)
    os.environ.clear()
    os.environ.update(start.environment)
    sys.path.insert(0, start.folder)
    tempfile.tempdir = None
    time.tzset()


def _run(line: list[str]) -> int:
    """Run the module as `python -m` does; returns the exit status."""
    module, sys.argv = line[2], line[2:]
    sys.orig_argv[:] = line
    for name in (module, f"{module}.__main__"):
        if name in sys.modules and not hasattr(sys.modules[name], "__path__"):
            del sys.modules[name]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as leaving:
        if isinstance(leaving.code, str):
            print(leaving.code, file=sys.stderr)
        status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except KeyboardInterrupt:
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
        raise
    except BaseException:
        traceback.print_exc()
        status = 1
    else:
        status = 0
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    return status & 0xFF


@contextlib.contextmanager
def forking() -> Generator[None]:
    """Fork our programs until the end of the block; execute them if this process cannot be forked."""
    if sys.platform != "linux" or len(threading.enumerate()) > 1:
        yield
        return
    server = ForkServer()
    subprocess._fork_exec = server.fork_exec  # type: ignore[attr-defined]
    try:
        yield
    finally:
        subprocess._fork_exec = _fork_exec  # type: ignore[attr-defined]
        server.close()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, Any, Any]:
    """For tests in one process; `tests.processes` does it in each of several."""
    with forking() if session.config.option.processes < 2 else contextlib.nullcontext():
        return (yield)
