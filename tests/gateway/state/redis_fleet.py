"""Real Redis servers that fail over: a master with a replica and three sentinels, and a small cluster. With TLS by a
certificate authority of their own, and users with passwords, if asked."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from tests.gateway.redis_server import require_redis
from twolane.process.flags import free_port

SERVICE = "mymaster"
NAMESPACE = "{tests}"
# What docs/deployment.md gives the gateway's user.
RIGHTS = "-@all +@connection +@read +@write +@scripting +time +cluster|slots +command"
USER = f"user gateway on >secret ~{NAMESPACE}:* {RIGHTS}"
_ROOT, _SENTINEL = "root-password", "sentinel-password"


@dataclass(frozen=True, slots=True)
class Certificates:
    """A certificate for 127.0.0.1 and the authority that signed it."""

    folder: Path

    @classmethod
    def made_in(cls, folder: Path) -> "Certificates":
        """Made with openssl; replaces what is in the folder."""
        folder.mkdir(exist_ok=True)
        (folder / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
        key = [*("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"), "-nodes", "-subj", "/CN=test"]
        for line in (
            ["req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2"],
            ["req", *key, "-keyout", "server.key", "-out", "server.csr"],
            [
                *("x509", "-req", "-in", "server.csr", "-out", "server.pem", "-extfile", "names", "-days", "2"),
                *("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
            ],
        ):
            subprocess.run(["openssl", *line], cwd=folder, check=True, capture_output=True)
        return cls(folder)

    @property
    def ca_file(self) -> Path:
        return self.folder / "ca.pem"

    def options(self, port: int) -> list[str]:
        """Of a server whose every connection is encrypted."""
        files = [f"tls-{name} {self.folder / file}" for name, file in _FILES.items()]
        return [f"tls-port {port}", "port 0", "tls-auth-clients no", "tls-replication yes", *files]


_FILES = {"cert-file": "server.pem", "key-file": "server.key", "ca-cert-file": "ca.pem"}


class Node:
    """One process: a server, a node of a cluster, or a sentinel."""

    def __init__(self, folder: Path, lines: list[str], certificates: Certificates | None, password: str = "") -> None:
        self.port = free_port()
        self._folder = folder / str(self.port)
        self._folder.mkdir()
        self._is_sentinel = any(line.startswith("sentinel ") for line in lines)
        tls = certificates.options(self.port) if certificates else [f"port {self.port}"]
        common = ["bind 127.0.0.1", f"dir {self._folder}", *tls]
        own = [] if self._is_sentinel else ['save ""', "appendonly no", "repl-diskless-sync-delay 0"]
        (self._folder / "conf").write_text("\n".join([*common, *own, *lines]) + "\n")
        self._process: subprocess.Popen[bytes] | None = None
        connection = {"ssl": True, "ssl_ca_certs": str(certificates.ca_file)} if certificates else {}
        self._client = redis.Redis(port=self.port, password=password or None, decode_responses=True, **connection)

    def start(self) -> None:
        """Start, and wait until it answers."""
        line = ["redis-server", str(self._folder / "conf"), *(["--sentinel"] if self._is_sentinel else [])]
        self._process = subprocess.Popen(line, stdout=subprocess.DEVNULL)
        until(lambda: self.run("PING"))

    def run(self, *command: Any) -> Any:
        """The answer, or None without one."""
        try:
            return self._client.execute_command(*command)
        except (redis.RedisError, OSError):
            return None

    def signal(self, number: signal.Signals) -> None:
        """SIGSTOP: it hangs. SIGCONT: it goes on. SIGKILL: it is gone."""
        assert self._process is not None
        os.kill(self._process.pid, number)

    def stop(self) -> None:
        """Kill it."""
        self._client.close()
        if self._process is not None:
            self.signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    @property
    def is_master(self) -> bool:
        role = self.run("ROLE")
        return bool(role) and role[0] == "master"


@dataclass(frozen=True, slots=True)
class Fleet:
    """The `servers` (the first is a master at first), and the `sentinels`, if there are any."""

    servers: list[Node]
    sentinels: list[Node]
    url: str

    @property
    def master(self) -> Node:
        return next(node for node in self.servers if node.is_master)


@contextlib.contextmanager
def sentinel_fleet(folder: Path, certificates: Certificates | None = None) -> Iterator[Fleet]:
    """A master, a replica, and three sentinels that agree on both."""
    require_redis()
    is_secured = certificates is not None
    password = _ROOT if is_secured else ""
    users = [f"requirepass {_ROOT}", f"masterauth {_ROOT}", USER] if is_secured else []
    with contextlib.ExitStack() as stack:

        def started(lines: list[str], password: str) -> Node:
            node = Node(folder, lines, certificates, password)
            stack.callback(node.stop)
            node.start()
            return node

        master = started(users, password)
        replica = started([*users, f"replicaof 127.0.0.1 {master.port}"], password)
        until(lambda: (master.run("ROLE") or [0, 0, []])[2])  # sentinels ask for replicas every ten seconds only
        watch = [
            f"sentinel monitor {SERVICE} 127.0.0.1 {master.port} 2",
            f"sentinel down-after-milliseconds {SERVICE} 1000",
            f"sentinel failover-timeout {SERVICE} 1000",
        ]
        if is_secured:
            watch += [f"sentinel auth-pass {SERVICE} {_ROOT}", f"requirepass {_SENTINEL}"]
            watch += [f"sentinel sentinel-pass {_SENTINEL}"]
        sentinels = [started(watch, _SENTINEL if is_secured else "") for _ in range(3)]
        until(lambda: all(_agrees(each) for each in sentinels))
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in sentinels)
        url = f"redis+sentinel://{hosts}/{SERVICE}"
        if is_secured:
            url = f"rediss+sentinel://gateway:secret@{hosts}/{SERVICE}?sentinel_password={_SENTINEL}"
        yield Fleet([master, replica], sentinels, url)


def _agrees(sentinel: Node) -> bool:
    state = sentinel.run("SENTINEL", "MASTER", SERVICE)
    if not state:
        return False
    known = state if isinstance(state, dict) else dict(zip(state[::2], state[1::2], strict=True))
    return (str(known["num-other-sentinels"]), str(known["num-slaves"])) == ("2", "1")


@contextlib.contextmanager
def cluster_fleet(folder: Path, certificates: Certificates | None = None) -> Iterator[Fleet]:
    """Three masters; the first has the slot of the tests' keys, and a replica. The address names the first alone."""
    require_redis()
    is_secured = certificates is not None
    patience = "cluster-node-timeout 5000"  # so that a busy machine does not look like a node that is gone
    lines = ["cluster-enabled yes", patience, "cluster-require-full-coverage no"]
    lines += [f"requirepass {_ROOT}", f"masterauth {_ROOT}", "tls-cluster yes", USER] if is_secured else []
    with contextlib.ExitStack() as stack:
        nodes, buses = [], [free_port() for _ in range(4)]
        for bus in buses:
            node = Node(folder, [*lines, f"cluster-port {bus}"], certificates, _ROOT if is_secured else "")
            stack.callback(node.stop)
            node.start()
            nodes.append(node)
        first, second, third, replica = nodes
        slot = first.run("CLUSTER", "KEYSLOT", NAMESPACE)
        first.run("CLUSTER", "ADDSLOTS", slot)
        second.run("CLUSTER", "ADDSLOTSRANGE", 0, slot - 1)
        third.run("CLUSTER", "ADDSLOTSRANGE", slot + 1, 16383)
        for number, node in enumerate(nodes, 1):
            node.run("CLUSTER", "SET-CONFIG-EPOCH", number)
            first.run("CLUSTER", "MEET", "127.0.0.1", node.port, buses[number - 1])
        until(lambda: all(len(_nodes_of(each)) == 4 for each in nodes))
        until(lambda: replica.run("CLUSTER", "REPLICATE", first.run("CLUSTER", "MYID")))
        until(lambda: all("cluster_state:ok" in str(each.run("CLUSTER", "INFO")) for each in nodes))
        until(lambda: (first.run("ROLE") or [0, 0, []])[2])
        scheme, user = ("rediss", "gateway:secret@") if is_secured else ("redis", "")
        yield Fleet([first, replica], [], f"{scheme}+cluster://{user}127.0.0.1:{first.port}")


def _nodes_of(node: Node) -> list[str]:
    found = node.run("CLUSTER", "NODES") or ""
    return [line for line in (found.splitlines() if isinstance(found, str) else found) if "handshake" not in str(line)]


def until(is_true: Callable[[], Any]) -> None:
    """Wait for a condition of other processes."""
    deadline = time.monotonic() + 120
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.02)
