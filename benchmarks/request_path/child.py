"""One gateway in one process, driven without sockets: `python child.py FOLDER [PART ...]`, commands on standard input.

The client's and the target's connections are real protocols on transports that exist in memory only, so the figures
contain everything between the two sockets and nothing of the kernel. Run as a script with another version of the
project on PYTHONPATH, it measures that version: it uses nothing but public interfaces.
"""

import asyncio
import contextlib
import gc
import json
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import FrameType
from typing import Any, Final

import aiohappyeyeballs
import uvloop
from uvicorn.server import ServerState

from benchmarks.gateway.measure import request_of
from benchmarks.gateway.mock_upstream import CHUNKS, stream_events, whole_answer
from benchmarks.gateway.servers import KEY, Server, policy
from gateway.app import open_gateway
from gateway.settings import Settings
from twolane.process.http.connection import Listener
from twolane.process.http.server import config_of

CONNECTIONS: Final = 16
ENDS: Final = "ends"  # a relay of the same server and the same client, with nothing in between
_PORT: Final = 9  # of the target, which nobody connects to
_SAMPLE_S: Final = 0.001
_ANSWER: Final = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
_STREAM: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class _Loop(uvloop.Loop):
    """Connects to the mock target instead of an address."""

    async def create_connection(  # type: ignore[override]
        self, factory: Callable[[], asyncio.Protocol], *_: Any, **__: Any
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        protocol = factory()
        transport = _Target(self, protocol)
        protocol.connection_made(transport)
        return transport, protocol


class _Transport(asyncio.Transport):
    """In memory. It has a socket, because connections look at the state of theirs."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__({"sockname": ("127.0.0.1", 80), "peername": ("127.0.0.1", 40_000)})
        ours, self._other = socket.socketpair()
        self._extra["socket"] = ours  # type: ignore[attr-defined]
        self._protocol = protocol
        self._is_closed = False

    def is_closing(self) -> bool:
        return self._is_closed

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    abort = close


class _Target(_Transport):
    """Answers each request as the mock upstream of `benchmarks.gateway` does, a stream with one event in each read."""

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: asyncio.Protocol) -> None:
        super().__init__(protocol)
        self._loop = loop
        body = whole_answer()
        self._answer = _ANSWER % (len(body), body)
        events = [b"%x\r\n%s\r\n" % (len(event), event) for event in stream_events()]
        self._parts = [_STREAM + events[0], *events[1:-1], events[-1] + b"0\r\n\r\n"]

    def write(self, data: Any) -> None:
        if b'"stream":true' in data or b'"stream": true' in data:
            self._loop.call_soon(self._send, 0)
        else:
            self._loop.call_soon(self._protocol.data_received, self._answer)

    def _send(self, number: int) -> None:
        self._protocol.data_received(self._parts[number])
        if number + 1 < len(self._parts):
            self._loop.call_soon(self._send, number + 1)


class _Client(_Transport):
    """Sends a request and waits for the end of its response."""

    def __init__(self, make: Callable[[], asyncio.Protocol]) -> None:
        super().__init__(make())
        self._protocol.connection_made(self)
        self._end: asyncio.Future[None] | None = None
        self._received: list[bytes] = []

    async def exchange(self, request: bytes, *, stream: bool) -> bytes:
        self._end = asyncio.get_running_loop().create_future()
        self._is_stream = stream
        self._received = []
        self._protocol.data_received(request)
        await self._end
        return self._received[0]

    def write(self, data: Any) -> None:
        self._received.append(data)
        is_end = data.endswith(b"0\r\n\r\n") if self._is_stream else True
        if is_end and self._end is not None:
            self._end.set_result(None)
            self._end = None


@contextlib.asynccontextmanager
async def _connections(folder: Path, without: frozenset[str]) -> AsyncIterator[Callable[[], asyncio.Protocol]]:
    """Makes the client connections of a gateway with everything on, or of the ends alone."""
    if ENDS in without:
        from benchmarks.gateway.ends import Ends

        config = config_of(Ends(_PORT), drain_s=1)
        config.load()
        yield _protocols(config, Listener())
        return
    (folder / "policy.yaml").write_text(json.dumps(policy(_PORT, without)))
    more: dict[str, Any] = {}
    if "keys" not in without:
        import hashlib

        (folder / "keys").write_text(f"load sha256:{hashlib.sha256(KEY.encode()).hexdigest()}\n")
        more["keys_file"] = folder / "keys"
    if "log" not in without:
        more["decision_log"] = folder / "decisions.jsonl"
    async with open_gateway(Settings(policy=folder / "policy.yaml", **more)) as gateway:
        config = gateway.servers(drain_s=1)[0].config
        config.load()
        yield _protocols(config, config.http)


def _protocols(config: Any, listener: Any) -> Callable[[], asyncio.Protocol]:
    state = ServerState()
    state.default_headers = list(config.encoded_headers)
    return lambda: listener(config, state, {}, asyncio.get_running_loop())


class _Driver:
    """Measures bursts of requests, several at a time."""

    def __init__(self, make: Callable[[], asyncio.Protocol], without: frozenset[str]) -> None:
        self._clients = [_Client(make) for _ in range(CONNECTIONS)]
        self._requests = {kind: _request(without, stream=kind == "stream") for kind in ("whole", "stream")}

    async def burst(self, kind: str, count: int) -> None:
        """Send so many requests. Raises RuntimeError for a response that is no answer."""
        request, share = self._requests[kind], max(1, count // CONNECTIONS)

        async def loop(client: _Client) -> None:
            for _ in range(share):
                head = await client.exchange(request, stream=kind == "stream")
                if not head.startswith(b"HTTP/1.1 200"):
                    raise RuntimeError(f"no answer, but {head[:600]!r}")

        await asyncio.gather(*map(loop, self._clients))

    async def cost(self, kind: str, count: int) -> float:
        """Microseconds of this process per request, or per chunk of a stream."""
        before_s = time.process_time()
        await self.burst(kind, count)
        parts = CONNECTIONS * max(1, count // CONNECTIONS) * (CHUNKS if kind == "stream" else 1)
        return 1e6 * (time.process_time() - before_s) / parts

    async def calls(self, kind: str, count: int) -> dict[str, float]:
        """Calls of Python functions per request, by `module:function`."""
        found: Counter[str] = Counter()

        def count_call(frame: FrameType, event: str, _: Any) -> None:
            if event == "call":
                found[_name(frame)] += 1

        sys.setprofile(count_call)
        try:
            await self.burst(kind, count)
        finally:
            sys.setprofile(None)
        requests = CONNECTIONS * max(1, count // CONNECTIONS)
        return {name: calls / requests for name, calls in found.items()}

    async def samples(self, kind: str, count: int) -> dict[str, float]:
        """The share of the CPU time by `module:function`, from samples of the innermost frame."""
        found: Counter[str] = Counter()

        def sample(_: int, frame: FrameType | None) -> None:
            if frame is not None:
                found[_name(frame)] += 1

        before = signal.signal(signal.SIGPROF, sample)
        signal.setitimer(signal.ITIMER_PROF, _SAMPLE_S, _SAMPLE_S)
        try:
            await self.burst(kind, count)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, before)
        total = sum(found.values())
        return {name: samples / total for name, samples in found.items()}


def _request(without: frozenset[str], *, stream: bool) -> bytes:
    headers = ["x-twolane-task: chat"] if "classifier" in without else []
    headers += [] if "keys" in without else [f"authorization: Bearer {KEY}"]
    server = Server(name="gateway", prepare=lambda _folder, _ports: [], model="auto", headers=tuple(headers))
    made = request_of(server, 80, stream=stream)
    lines = [f"POST {made.path} HTTP/1.1", "host: 127.0.0.1", "content-type: application/json", *headers]
    lines += [f"content-length: {len(made.body)}", "", ""]
    return "\r\n".join(lines).encode() + made.body


def _name(frame: FrameType) -> str:
    path = frame.f_code.co_filename
    for root in ("/gateway/", "/twolane/"):
        if root in path and "/benchmarks/" not in path:
            return f"{root[1:]}{path.rpartition(root)[2]}:{frame.f_code.co_qualname}"
    return f"{Path(path).name}:{frame.f_code.co_qualname}"


async def _serve(folder: Path, without: frozenset[str]) -> None:
    async def connect(*_: Any, **__: Any) -> socket.socket:
        return socket.socketpair()[0]

    aiohappyeyeballs.start_connection = connect
    async with _connections(folder, without) as make:
        driver = _Driver(make, without)
        gc.collect()
        gc.freeze()
        gc.set_threshold(25_000, 20, 50)
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            action, kind, count = line.split()
            gc.collect()
            found = await getattr(driver, action)(kind, int(count))
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    asyncio.set_event_loop_policy(None)
    with asyncio.Runner(loop_factory=_Loop) as runner:
        runner.run(_serve(Path(sys.argv[1]), frozenset(sys.argv[2:])))
