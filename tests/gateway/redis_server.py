"""A real redis-server on loopback that can be stopped, stalled, emptied and started again."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from gateway.state.redis_address import read_address
from gateway.state.redis_client import RedisClient
from twolane.process.flags import free_port


class RedisServer:
    """One process, nothing on disk. `url` stays the same over restarts."""

    def __init__(self, folder: Path, *options: str) -> None:
        """`options` are lines of the configuration."""
        self._folder = folder
        self._options = options
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.address = ("127.0.0.1", self._port)
        self.url = f"redis://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start the process and wait until it responds."""
        own = (f"port {self._port}", "bind 127.0.0.1", 'save ""', "appendonly no", f"dir {self._folder}")
        self._process = subprocess.Popen(["redis-server", "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        assert self._process.stdin is not None
        with self._process.stdin as configuration:
            configuration.write("\n".join((*own, *self._options)).encode())
        deadline = time.monotonic() + 120
        while not self.say(b"PING").startswith((b"+PONG", b"-NOAUTH")):
            assert self._process.poll() is None
            assert time.monotonic() < deadline

    def say(self, command: bytes) -> bytes:
        """Send one command without arguments; returns nothing if there is no response."""
        try:
            with socket.create_connection(self.address, timeout=120) as connection:
                connection.sendall(command + b"\r\n")
                return connection.recv(1024)
        except OSError:
            return b""

    def stall(self) -> None:
        """Stop the process: it accepts connections and does not respond."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Continue the process: it answers the waiting requests."""
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """Kill the process; its data is lost."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)


def client_of(url: str) -> RedisClient:
    """The gateway's client, with timeouts at which a busy machine does not look like a stopped Redis."""
    return RedisClient(read_address(url), timeout_s=60)


def require_redis() -> None:
    """Skips if redis-server is missing (`make redis` installs it), but not in CI, where it is required."""
    if shutil.which("redis-server") is None and not os.environ.get("CI"):
        pytest.skip("no redis-server; `make redis` installs it")


@contextlib.contextmanager
def redis_server(folder: Path, *options: str) -> Iterator[RedisServer]:
    """A server with these lines in its configuration."""
    require_redis()
    server = RedisServer(folder, *options)
    server.start()
    try:
        yield server
    finally:
        server.stop()


async def until_exchanged(redis: RedisServer, *, replicas: int, namespace: str = "twolane") -> None:
    """Wait until the current state of each gateway has reached all others: each has published three times from now on.

    The first of them may have been on its way, and the second is received with the third.
    """
    key = f"{{{namespace}}}:replicas"
    async with Redis.from_url(redis.url) as client, asyncio.timeout(120):
        spoken: dict[bytes, set[bytes]] = {}
        while sum(len(said) > 3 for said in spoken.values()) < replicas:
            for name, said in (await client.hgetall(key)).items():
                spoken.setdefault(name, set()).add(said.partition(b" ")[0])
            await asyncio.sleep(0.05)
