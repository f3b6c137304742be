"""Several processes that serve the same two ports: started, replaced when they die, ended together.

The parent serves nothing itself. It binds, and hands the sockets down; so no connection is lost with a process that had
not taken it yet. A process that dies is replaced; one that cannot start, or dies at once again and again, ends all.
Signals are waited for, not handled (`sigtimedwait`), so there is nothing to race with. POSIX only.
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

QUICKLY_S: Final = 5.0  # who dies so soon after it was started has not served
MOST_QUICK_DEATHS: Final = 3  # in a row
GRACE_S: Final = 5.0  # beyond the time to drain
_SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD})


def run_supervised(settings: Settings, line: Sequence[str]) -> int:
    """Serve with `settings.workers` processes until SIGTERM or ctrl-C; SIGHUP goes to all. `line` is how one is
    called. Returns an exit code: 0, or that of the process for which all were ended. Raises
    ConfigurationError."""
    with ExitStack() as stack:
        folder = _folder(stack)
        public, admin = (stack.enter_context(bound) for bound in bind_both(settings))
        alive, ours = os.pipe()  # closed by our death, however that comes: then children leave, too
        for number in (alive, ours):
            stack.callback(os.close, number)
        numbers = (public.fileno(), admin.fileno(), alive)
        environment = {
            **os.environ,
            FOLDER_VARIABLE: str(folder),
            f"{PREFIX}WORKERS": "1",
            f"{PREFIX}HANDED_DOWN": ",".join(map(str, numbers)),
        }
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        stack.callback(signal.pthread_sigmask, signal.SIG_SETMASK, before)
        crew = _Supervisor(tuple(line), environment, numbers, folder)
        stack.callback(crew.kill)
        print(f"twolane serve: {settings.workers} processes on {url_of(public)}, admin {url_of(admin)}", flush=True)
        for _ in range(settings.workers):
            crew.start()
        return crew.watch() or crew.leave(settings.drain_s + GRACE_S)


class _Supervisor:
    """The processes; those in `_started` live, by what we know."""

    def __init__(
        self, line: tuple[str, ...], environment: Mapping[str, str], numbers: tuple[int, ...], folder: Path
    ) -> None:
        self._line, self._environment, self._numbers, self._folder = line, environment, numbers, folder
        self._started: dict[subprocess.Popen[bytes], float] = {}
        self._quick_deaths = 0

    def start(self) -> None:
        """One more."""
        process = subprocess.Popen(  # noqa: S603 - it is ourselves
            [sys.executable, "-m", "gateway", *self._line],
            env=self._environment,
            pass_fds=self._numbers,
            preexec_fn=_hear_signals,  # noqa: PLW1509 - we have one thread
        )
        self._started[process] = time.monotonic()

    def watch(self) -> int:
        """Replace who dies, until told to leave (0), or until that helps nobody (the exit code of the last)."""
        while True:
            heard = signal.sigwait(_SIGNALS)
            if heard in (signal.SIGTERM, signal.SIGINT):
                return 0
            if heard == signal.SIGHUP:
                self._send(signal.SIGHUP)
            for process, lived_s in self._reap():
                print(
                    f"twolane serve: process {process.pid} ended ({process.returncode}), another starts",
                    file=sys.stderr,
                )
                self._quick_deaths = self._quick_deaths + 1 if lived_s < QUICKLY_S else 0
                if process.returncode == 2 or self._quick_deaths >= MOST_QUICK_DEATHS:
                    self.leave(GRACE_S)
                    return process.returncode if process.returncode > 0 else 1
                self.start()

    def leave(self, within_s: float) -> int:
        """Tell all to finish and wait so long; who is not done then is killed. Always 0."""
        self._send(signal.SIGTERM)
        until = time.monotonic() + within_s
        self._reap()
        while self._started and (left_s := until - time.monotonic()) > 0:
            signal.sigtimedwait({signal.SIGCHLD}, left_s)  # one that came since is pending: it is blocked
            self._reap()
        return 0

    def kill(self) -> None:
        """Whoever is left."""
        self._send(signal.SIGKILL)
        for process in list(self._started):
            process.wait()
        self._reap()

    def _send(self, number: signal.Signals) -> None:
        for process in self._started:
            process.send_signal(number)

    def _reap(self) -> list[tuple[subprocess.Popen[bytes], float]]:
        """Those that have died since the last time, with how long they lived. What they counted stays."""
        dead = [process for process in self._started if process.poll() is not None]
        for process in dead:
            forget(self._folder, process.pid)
        return [(process, time.monotonic() - self._started.pop(process)) for process in dead]


def _folder(stack: ExitStack) -> Path:
    """Where processes tell what they count; emptied of what earlier ones did. Raises ConfigurationError."""
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


def _hear_signals() -> None:
    """In the child: it handles signals as anybody."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
