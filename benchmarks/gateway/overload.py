"""Overload of the gateway: `python -m benchmarks.gateway --overload [--check] [--json FILE]`.

Each round measures the capacity (a closed loop), then offers 0.7 and 1.5 times as much (an open loop: requests are sent
when they are due, whether or not earlier ones were answered, and latencies count from then), then measures the capacity
again: answered requests are compared with the mean of the two, because the speed of a machine drifts within seconds.
All bars are ratios within one round, and the median round counts. The onset of an overload, in which a burst may still
wait, is not measured.
"""

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any, Final

import uvloop
from rich.console import Console
from rich.table import Table

CONNECTIONS: Final = 32  # of the closed loop
ONSET_S: Final = 3.0
CALM_S: Final = 1.5  # until an overload has ended
TICK_S: Final = 0.001
LOW, HIGH = 0.7, 1.5
MIN_ANSWERED: Final = 0.9  # of the capacity
MAX_P99_RATIO: Final = 4.0


@dataclass(kw_only=True)
class Answers:
    """What the client saw."""

    statuses: Counter[int] = field(default_factory=Counter)
    latencies_s: list[float] = field(default_factory=list)  # of status 200
    without_retry_after: int = 0  # refusals
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Answered requests per second."""
        return self.statuses[200] / self.seconds

    @property
    def p99_ms(self) -> float:
        """Of answered requests."""
        ordered = sorted(self.latencies_s)
        return 1000 * ordered[int(0.99 * len(ordered))] if ordered else float("inf")

    @property
    def others(self) -> int:
        """Responses that are neither an answer nor a proper refusal."""
        return self.statuses.total() - self.statuses[200] - self.statuses[503] + self.without_retry_after


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round's figures."""

    capacity: float  # mean of before and after
    low_p99_ms: float
    offered: float
    answered: float
    p99_ms: float
    refused: float
    others: int

    @property
    def answered_share(self) -> float:
        """Answered requests under overload, as a fraction of the capacity."""
        return self.answered / self.capacity

    @property
    def p99_ratio(self) -> float:
        """p99 under overload, as a multiple of the p99 at 0.7 of the capacity."""
        return self.p99_ms / self.low_p99_ms


def measure(port: int, body: bytes, *, rounds: int, seconds: float) -> list[Round]:
    """Run all rounds against a gateway on loopback."""
    return uvloop.run(_measure(port, body, rounds, seconds))


def is_within(rounds: list[Round]) -> bool:
    """Whether the median round meets the bars, and every refusal was a proper one."""
    return (
        median(each.answered_share for each in rounds) >= MIN_ANSWERED
        and median(each.p99_ratio for each in rounds) <= MAX_P99_RATIO
        and not any(each.others for each in rounds)
    )


def show(rounds: list[Round]) -> None:
    """Print the rounds as a table."""
    title = (
        f"Offered {HIGH:g} x the capacity; answered >= {MIN_ANSWERED:g} x, p99 <= {MAX_P99_RATIO:g} x that at {LOW:g}"
    )
    table = Table(title=title, title_justify="left")
    for heading in ("capacity /s", "p99 ms at 0.7", "offered /s", "answered /s", "x", "p99 ms", "x", "503 /s", "other"):
        table.add_column(heading, justify="right")
    for each in rounds:
        figures = (each.capacity, each.low_p99_ms, each.offered, each.answered, each.answered_share)
        row = [f"{figure:.2f}" if figure < 100 else f"{figure:.0f}" for figure in figures]
        table.add_row(*row, f"{each.p99_ms:.1f}", f"{each.p99_ratio:.2f}", f"{each.refused:.0f}", str(each.others))
    Console(width=110).print(table)


async def _measure(port: int, body: bytes, rounds: int, seconds: float) -> list[Round]:
    client = _Client(port, body)
    await client.closed(CONNECTIONS, 1.0)
    found = []
    for number in range(rounds):
        before = (await client.closed(CONNECTIONS, seconds)).rate
        low = await client.open(LOW * before, seconds, seed=number)
        await client.open(HIGH * before, ONSET_S, seed=number + 1000)
        high = await client.open(HIGH * before, seconds, seed=number + 2000)
        await asyncio.sleep(CALM_S)
        after = (await client.closed(CONNECTIONS, seconds)).rate
        found.append(
            Round(
                capacity=(before + after) / 2,
                low_p99_ms=low.p99_ms,
                offered=high.statuses.total() / high.seconds,
                answered=high.rate,
                p99_ms=high.p99_ms,
                refused=high.statuses[503] / high.seconds,
                others=high.others + low.others,
            )
        )
    client.close()
    return found


class _Client:
    """Keep-alive connections to the gateway; as many as requests are in flight."""

    def __init__(self, port: int, body: bytes) -> None:
        self._port = port
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(body)}\r\n\r\n"
        self._request = head.encode() + body
        self._idle: deque[_Connection] = deque()
        self._all: set[_Connection] = set()

    async def closed(self, connections: int, seconds: float) -> Answers:
        """Each connection sends its next request when the last one was answered."""
        answers, loop = Answers(), asyncio.get_running_loop()
        end_s = time.perf_counter() + seconds

        async def one() -> None:
            while time.perf_counter() < end_s:
                done: asyncio.Future[None] = loop.create_future()
                await self._send(answers, time.perf_counter(), partial(done.set_result, None))
                await done

        began_s = time.perf_counter()
        await asyncio.gather(*(one() for _ in range(connections)))
        answers.seconds = time.perf_counter() - began_s
        return answers

    async def open(self, rate: float, seconds: float, *, seed: int) -> Answers:
        """Poisson arrivals. Ends when the last request was answered, which does not count as time."""
        answers, dice = Answers(seconds=seconds), random.Random(seed)
        began_s = due_s = time.perf_counter()
        pending = 0
        all_answered = asyncio.Event()

        def answered() -> None:
            nonlocal pending
            pending -= 1
            if not pending:
                all_answered.set()

        while due_s < began_s + seconds:
            while due_s <= time.perf_counter():
                pending += 1
                all_answered.clear()
                await self._send(answers, due_s, answered)
                due_s += dice.expovariate(rate)
            await asyncio.sleep(TICK_S)
        if pending:
            await all_answered.wait()
        return answers

    async def _send(self, answers: Answers, due_s: float, done: Callable[[], None]) -> None:
        if not self._idle:
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(_Connection, "127.0.0.1", self._port)
            self._all.add(connection)
            self._idle.append(connection)
        connection = self._idle.popleft()

        def answered(status: int, head: bytes) -> None:
            answers.statuses[status] += 1
            if status == 200:
                answers.latencies_s.append(time.perf_counter() - due_s)
            elif b"\r\nretry-after: " not in head:
                answers.without_retry_after += 1
            if not connection.transport.is_closing():
                self._idle.append(connection)
            done()

        connection.send(self._request, answered)

    def close(self) -> None:
        for connection in self._all:
            connection.transport.close()


class _Connection(asyncio.Protocol):
    """One request at a time; responses have a content length."""

    transport: Any

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self._buffer = b""

    def send(self, request: bytes, answered: Callable[[int, bytes], None]) -> None:
        self._answered: Callable[[int, bytes], None] | None = answered
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found or len(rest) < _content_length(head):
            return
        self._buffer, answered, self._answered = b"", self._answered, None
        if answered is not None:
            answered(int(head[9:12]), head)

    def connection_lost(self, _: Exception | None) -> None:
        answered = getattr(self, "_answered", None)
        if answered is not None:
            answered(0, b"\r\nretry-after: ")


def _content_length(head: bytes) -> int:
    at = head.lower().find(b"content-length:")
    return int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
