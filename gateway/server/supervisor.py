"""Process supervisor: runs several gateway processes on the same two ports, restarts them, and stops them together.

The parent serves no requests: it accepts the connections of the public port and hands each to a process (`dispatcher`);
the socket of the admin port is inherited. A process that dies is restarted; one that cannot start, or exits early
several times in a row, stops all. Signals arrive as bytes on a socket (`set_wakeup_fd`), so there are no handler races.
POSIX only.
"""

import os
import secrets
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from gateway.server.dispatcher import Dispatcher
from gateway.server.sockets import bind_both
from gateway.settings import PREFIX, Settings
from gateway.telemetry.metrics_folder import FOLDER_VARIABLE, forget, forget_all
from twolane.process.errors import ConfigurationError
from twolane.process.sockets import HANDSHAKES_S, refuse_new_connections, url_of

EARLY_EXIT_S: Final = 5.0  # a process that ends this early has not served
MAX_EARLY_EXITS: Final = 3  # consecutive
GRACE_S: Final = 8.0  # in addition to the drain time: the last responses, and the end of the process
HANDOVER_S: Final = 2.0  # for connections on their way, before the processes are stopped
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


def run_supervised(settings: Settings, arguments: Sequence[str]) -> int:
    """Serve with `settings.workers` processes until SIGTERM or ctrl-C; SIGHUP is forwarded to all. `arguments` is
    the command line of one process. Returns 0, or the exit code of the process for which all were stopped.
    Raises ConfigurationError."""
    with ExitStack() as stack:
        folder = _folder(stack)
        public, admin = (stack.enter_context(bound) for bound in bind_both(settings))
        selector = stack.enter_context(selectors.DefaultSelector())
        signals = _signals(stack)
        selector.register(signals, selectors.EVENT_READ, signals)
        dispatcher = Dispatcher(public, selector, expected=settings.workers)
        environment = {**os.environ, FOLDER_VARIABLE: str(folder), f"{PREFIX}WORKERS": "1"}
        environment.setdefault(
            f"{PREFIX}CONSOLE_SECRET", secrets.token_urlsafe(32)
        )  # they accept each other's sessions
        processes = _Processes(tuple(arguments), environment, admin, folder, dispatcher)
        stack.callback(processes.kill)
        print(f"twolane serve: {settings.workers} processes on {url_of(public)}, admin {url_of(admin)}", flush=True)
        for _ in range(settings.workers):
            processes.start()
        supervisor = _Supervisor(selector, signals, dispatcher, processes)
        return supervisor.supervise() or supervisor.stop(settings.drain_s + GRACE_S)


class _Supervisor:
    """The event loop of the parent."""

    def __init__(
        self, selector: selectors.BaseSelector, signals: socket.socket, dispatcher: Dispatcher, processes: "_Processes"
    ) -> None:
        self._selector, self._signals = selector, signals
        self._dispatcher, self._processes = dispatcher, processes
        self._early_exits = 0

    def supervise(self) -> int:
        """Restart processes until a signal to stop (returns 0), or until restarting is pointless (returns the last exit
        code)."""
        while True:
            for received in self._wait(1.0):
                if received in (signal.SIGTERM, signal.SIGINT):
                    return 0
                if received == signal.SIGHUP:
                    self._processes.send(signal.SIGHUP)
            for process, lived_s in self._processes.reap():
                print(
                    f"twolane serve: process {process.pid} exited with {process.returncode}; restarting it",
                    file=sys.stderr,
                )
                self._early_exits = self._early_exits + 1 if lived_s < EARLY_EXIT_S else 0
                if process.returncode == 2 or self._early_exits >= MAX_EARLY_EXITS:
                    self.stop(GRACE_S)
                    return process.returncode if process.returncode > 0 else 1
                self._processes.start()

    def stop(self, within_s: float) -> int:
        """Hand over the connections that clients have begun, send SIGTERM and wait `within_s`; `kill` ends the rest.
        A further SIGINT meanwhile is passed on: it ends the drain. It is repeated, because a busy process may see it
        before the SIGTERM. Always returns 0."""
        is_interrupted = False
        self._dispatcher.close()
        self._processes.close_admin()
        until = time.monotonic() + HANDOVER_S
        while self._processes.any_running and not self._dispatcher.is_done and time.monotonic() < until:
            is_interrupted |= signal.SIGINT in self._wait(HANDSHAKES_S / 2)
            self._processes.reap()
        self._dispatcher.finish()
        self._processes.send(signal.SIGTERM)
        until = time.monotonic() + within_s
        self._processes.reap()
        while self._processes.any_running and (left_s := until - time.monotonic()) > 0:
            is_interrupted |= signal.SIGINT in self._wait(min(left_s, 1.0))
            self._processes.reap()
            if is_interrupted:
                self._processes.send(signal.SIGINT)
        return 0

    def _wait(self, timeout_s: float) -> Sequence[int]:
        """Handle events of connections, once; returns the signals that have arrived."""
        received = b""
        for key, _ in self._selector.select(timeout_s):
            if key.data is self._signals:
                received = self._signals.recv(64)
            else:
                self._dispatcher.handle(key.data)
        self._dispatcher.update()
        return received


class _Processes:
    """The child processes; those in `_started` are running."""

    def __init__(
        self,
        arguments: tuple[str, ...],
        environment: Mapping[str, str],
        admin: socket.socket,
        folder: Path,
        dispatcher: Dispatcher,
    ) -> None:
        self._arguments, self._environment, self._admin = arguments, environment, admin
        self._folder, self._dispatcher = folder, dispatcher
        self._started: dict[subprocess.Popen[bytes], tuple[int, float]] = {}  # number at the dispatcher, start
        self._count = 0

    @property
    def any_running(self) -> bool:
        """Whether any process has not been seen to end."""
        return bool(self._started)

    def start(self) -> None:
        """Start one process. Its channel closes when this process dies, however it dies: then it stops, too."""
        self._count += 1
        with self._dispatcher.add(self._count) as channel:
            numbers = (channel.fileno(), self._admin.fileno())
            process = subprocess.Popen(  # noqa: S603 - this program
                [sys.executable, "-m", "gateway", *self._arguments],
                env={**self._environment, f"{PREFIX}HANDED_DOWN": ",".join(map(str, numbers))},
                pass_fds=numbers,
            )
        self._started[process] = (self._count, time.monotonic())

    def close_admin(self) -> None:
        """Let no new connection to the admin port begin; the processes accept those that wait."""
        refuse_new_connections(self._admin)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to all."""
        for process in self._started:
            process.send_signal(number)

    def reap(self) -> list[tuple[subprocess.Popen[bytes], float]]:
        """Processes that ended since the last call, with their lifetimes. Their counters are kept."""
        ended = [process for process in self._started if process.poll() is not None]
        found = []
        for process in ended:
            forget(self._folder, process.pid)
            number, began_s = self._started.pop(process)
            self._dispatcher.remove(number)
            found.append((process, time.monotonic() - began_s))
        return found

    def kill(self) -> None:
        """Kill the remaining processes."""
        self.send(signal.SIGKILL)
        for process in list(self._started):
            process.wait()
        self.reap()


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


def _signals(stack: ExitStack) -> socket.socket:
    """A socket that receives the number of each signal as a byte."""
    ours, theirs = socket.socketpair()
    for each in (ours, theirs):
        each.setblocking(False)
        stack.enter_context(each)
    before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    stack.callback(signal.set_wakeup_fd, before)
    for number in _SIGNALS:
        stack.callback(signal.signal, number, signal.signal(number, _ignore))
    return ours


def _ignore(*_: object) -> None:
    """The number of the signal arrives on the socket."""
