"""Process supervisor: runs several gateway processes on the same two ports, restarts them, and stops them together.

The parent serves no requests. It binds the sockets and its children inherit them, so a connection that no process has
accepted yet survives the end of one. A process that dies is restarted; one that cannot start, or exits early several
times in a row, stops all. Signals are received with `sigtimedwait`, so there are no handler races. POSIX only.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from gateway.server.sockets import bind_both
from gateway.settings import PREFIX, Settings
from gateway.telemetry.multiprocess import FOLDER_VARIABLE, forget, forget_all
from twolane.process.errors import ConfigurationError
from twolane.process.sockets import url_of

EARLY_EXIT_S: Final = 5.0  # a process that ends this early has not served
MAX_EARLY_EXITS: Final = 3  # consecutive
GRACE_S: Final = 8.0  # in addition to the drain time: the last responses, and the end of the process
_SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD})


def run_supervised(settings: Settings, arguments: Sequence[str]) -> int:
    """Serve with `settings.workers` processes until SIGTERM or ctrl-C; SIGHUP is forwarded to all. `arguments` is
    the command line of one process. Returns 0, or the exit code of the process for which all were stopped.
    Raises ConfigurationError."""
    with ExitStack() as stack:
        folder = _folder(stack)
        public, admin = (stack.enter_context(bound) for bound in bind_both(settings))
        child_end, parent_end = os.pipe()  # closed when this process dies, however it dies: then the children stop, too
        for number in (child_end, parent_end):
            stack.callback(os.close, number)
        numbers = (public.fileno(), admin.fileno(), child_end)
        environment = {
            **os.environ,
            FOLDER_VARIABLE: str(folder),
            f"{PREFIX}WORKERS": "1",
            f"{PREFIX}HANDED_DOWN": ",".join(map(str, numbers)),
        }
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        stack.callback(signal.pthread_sigmask, signal.SIG_SETMASK, before)
        supervisor = _Supervisor(tuple(arguments), environment, numbers, folder)
        stack.callback(supervisor.kill)
        print(f"twolane serve: {settings.workers} processes on {url_of(public)}, admin {url_of(admin)}", flush=True)
        for _ in range(settings.workers):
            supervisor.start()
        return supervisor.supervise() or supervisor.stop(settings.drain_s + GRACE_S)


class _Supervisor:
    """The child processes; those in `_started` are running."""

    def __init__(
        self, arguments: tuple[str, ...], environment: Mapping[str, str], numbers: tuple[int, ...], folder: Path
    ) -> None:
        self._arguments, self._environment, self._numbers, self._folder = arguments, environment, numbers, folder
        self._started: dict[subprocess.Popen[bytes], float] = {}
        self._early_exits = 0

    def start(self) -> None:
        """Start one process."""
        process = subprocess.Popen(  # noqa: S603 - this program
            [sys.executable, "-m", "gateway", *self._arguments],
            env=self._environment,
            pass_fds=self._numbers,
            preexec_fn=_unblock_signals,  # noqa: PLW1509 - this process has one thread
        )
        self._started[process] = time.monotonic()

    def supervise(self) -> int:
        """Restart processes until a signal to stop (returns 0), or until restarting is pointless (returns the last exit
        code)."""
        while True:
            received = signal.sigwait(_SIGNALS)
            if received in (signal.SIGTERM, signal.SIGINT):
                return 0
            if received == signal.SIGHUP:
                self._send(signal.SIGHUP)
            for process, lived_s in self._reap():
                print(
                    f"twolane serve: process {process.pid} exited with {process.returncode}; restarting it",
                    file=sys.stderr,
                )
                self._early_exits = self._early_exits + 1 if lived_s < EARLY_EXIT_S else 0
                if process.returncode == 2 or self._early_exits >= MAX_EARLY_EXITS:
                    self.stop(GRACE_S)
                    return process.returncode if process.returncode > 0 else 1
                self.start()

    def stop(self, within_s: float) -> int:
        """Send SIGTERM and wait `within_s`; `kill` ends the rest. Always returns 0."""
        self._send(signal.SIGTERM)
        until = time.monotonic() + within_s
        self._reap()
        while self._started and (left_s := until - time.monotonic()) > 0:
            signal.sigtimedwait({signal.SIGCHLD}, left_s)  # blocked, so one that arrived meanwhile is pending
            self._reap()
        return 0

    def kill(self) -> None:
        """Kill the remaining processes."""
        self._send(signal.SIGKILL)
        for process in list(self._started):
            process.wait()
        self._reap()

    def _send(self, number: signal.Signals) -> None:
        for process in self._started:
            process.send_signal(number)

    def _reap(self) -> list[tuple[subprocess.Popen[bytes], float]]:
        """Processes that ended since the last call, with their lifetimes. Their counters are kept."""
        ended = [process for process in self._started if process.poll() is not None]
        for process in ended:
            forget(self._folder, process.pid)
        return [(process, time.monotonic() - self._started.pop(process)) for process in ended]


def _folder(stack: ExitStack) -> Path:
    """The folder in which processes share their metrics, emptied of earlier runs. Raises ConfigurationError."""
    given = os.environ.get(FOLDER_VARIABLE)
    if not given:
        made = Path(tempfile.mkdtemp(prefix="twolane-"))
        stack.callback(shutil.rmtree, made, ignore_errors=True)
        return made
    folder = Path(given)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        forget_all(folder)
    except OSError as fault:
        raise ConfigurationError(f"{FOLDER_VARIABLE}: {given}: {fault.strerror}") from fault
    return folder


def _unblock_signals() -> None:
    """Runs in the child, which handles signals normally."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
