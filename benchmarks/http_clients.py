"""The two HTTP clients of targets, side by side: `python -m benchmarks.http_clients [--json FILE]`.

Both send the same requests to a mock upstream on another processor, in interleaved rounds; the figure is the processor
time of this process, per request and per chunk of streams. Ratios of one run count.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Final

import uvloop
from rich.console import Console
from rich.table import Table
from yarl import URL

from benchmarks.gateway import processes
from benchmarks.gateway.measure import request_of
from benchmarks.gateway.mock_upstream import CHUNKS
from benchmarks.gateway.servers import Server
from gateway.upstreams.http_client.aiohttp_client import AiohttpClient, open_session
from gateway.upstreams.http_client.client import HttpClient
from gateway.upstreams.http_client.pool import PooledClient

CONNECTIONS: Final = 16
STREAMS: Final = 8
_HEADERS: Final = {
    "content-type": "application/json",
    "accept-encoding": "identity",
    "x-request-id": "req_0123456789abcdef",
    "authorization": "Bearer sk-benchmark",
}
_SERVER: Final = Server(name="mock", prepare=lambda _folder, _ports: [])


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """CPU time of one client in one round."""

    client: str
    request_us: float
    chunk_us: float


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.http_clients", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds (default: 7)")
    parser.add_argument("--requests", type=int, default=8000, help="requests of a client in a round (default: 8000)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    options = parser.parse_args()
    processes.require_processors()
    processes.pin(os.getpid(), 0)
    port = processes.free_ports(1)[0]
    command = [sys.executable, "-m", "benchmarks.gateway", "--upstream", str(port)]
    with processes.running(command, index=1) as mock:
        processes.wait_for(mock, port)
        rounds = uvloop.run(_measure(port, options.rounds, options.requests))
    _show(rounds)
    if options.json:
        options.json.write_text(json.dumps([asdict(each) for each in rounds], indent=1) + "\n")
    return 0


async def _measure(port: int, rounds: int, requests: int) -> list[Round]:
    clients: dict[str, HttpClient] = {"aiohttp": AiohttpClient(open_session(connect_s=5)), "pooled": PooledClient()}
    found = []
    for number in range(-1, rounds):  # the first round warms up
        for name in list(clients)[:: 1 if number % 2 else -1]:
            figures = await _round(clients[name], port, requests)
            if number >= 0:
                found.append(Round(client=name, request_us=figures[0], chunk_us=figures[1]))
    for client in clients.values():
        await client.aclose()
    return found


async def _round(client: HttpClient, port: int, requests: int) -> tuple[float, float]:
    """CPU time per whole answer and per chunk."""
    whole, stream = request_of(_SERVER, port), request_of(_SERVER, port, stream=True)
    url = URL(f"http://127.0.0.1:{port}{whole.path}", encoded=True)

    async def one(body: bytes) -> None:
        response = await client.post(url, body, _HEADERS)
        if response.status != 200:  # an error is cheaper than an answer
            raise RuntimeError(f"the mock upstream answered with status {response.status}")
        while await response.read():
            pass
        response.close()

    streams = max(STREAMS, requests // 100)
    request_us = await _cost_us(lambda: one(whole.body), requests, CONNECTIONS)
    return request_us, await _cost_us(lambda: one(stream.body), streams, STREAMS) / CHUNKS


async def _cost_us(send: Callable[[], Awaitable[None]], count: int, connections: int) -> float:
    async def loop(times: int) -> None:
        for _ in range(times):
            await send()

    before_s = time.process_time()
    share = max(1, count // connections)
    await asyncio.gather(*(loop(share) for _ in range(connections)))
    return 1e6 * (time.process_time() - before_s) / (share * connections)


def _show(rounds: list[Round]) -> None:
    table = Table(title=f"CPU time of each client, {CONNECTIONS} requests or {STREAMS} streams at a time; median round")
    for heading in ("", "us a request", "to aiohttp", "us a chunk", "to aiohttp"):
        table.add_column(heading, justify="right" if heading else "left")
    by_client = {name: [each for each in rounds if each.client == name] for name in ("aiohttp", "pooled")}
    pairs = list(zip(by_client["pooled"], by_client["aiohttp"], strict=True))
    for name, own in by_client.items():
        is_pooled = name == "pooled"
        request = median(a.request_us / b.request_us for a, b in pairs) if is_pooled else 1.0
        chunk = median(a.chunk_us / b.chunk_us for a, b in pairs) if is_pooled else 1.0
        request_us, chunk_us = median(each.request_us for each in own), median(each.chunk_us for each in own)
        table.add_row(name, f"{request_us:.1f}", f"{request:.2f}", f"{chunk_us:.1f}", f"{chunk:.2f}")
    Console(width=110).print(table)


if __name__ == "__main__":
    sys.exit(main())
