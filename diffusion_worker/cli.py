"""`twolane worker`: flags to settings, settings to a serving process, errors to exit codes.

0: served and left when told to. 2: wrong use, wrong settings or an unusable checkpoint, with one line on stderr that
names the cause. 1, with a traceback: a defect.
"""

import socket
import sys
from collections.abc import Sequence

from diffusion_worker.errors import BadSetting, CheckpointError, WorkerError
from diffusion_worker.settings import read_settings

GOOD, WRONG_USE = 0, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run a worker until it is told to leave; returns the exit code."""
    try:
        settings = read_settings(sys.argv[1:] if argv is None else argv)
        with bind(settings.host, settings.port) as listener:
            from diffusion_worker.app import serve  # brings torch: neither --help nor a busy port has to wait for it

            serve(settings, listener)
    except (BadSetting, CheckpointError) as error:
        print(f"twolane worker: {_one_line(error)}", file=sys.stderr)
        return WRONG_USE
    return GOOD


def bind(host: str, port: int) -> socket.socket:
    """A socket on that address, not yet listening: until the worker can answer, nobody is kept waiting. Raises
    BadSetting naming address and cause."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, UnicodeError) as error:
        listener.close()
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise BadSetting(f"cannot listen on {host} port {port}: {reason}") from error
    return listener


def _one_line(error: WorkerError) -> str:
    return " ".join(error.message.split())
