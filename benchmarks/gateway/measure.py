"""Measures several servers in interleaved rounds, so that a change of the machine's load meets all of them alike."""

import json
import time
from dataclasses import dataclass
from typing import Any, Final

import uvloop

from benchmarks.gateway.load import Answers, Request, abort_streams, drive
from benchmarks.gateway.mock_upstream import CHUNKS
from benchmarks.gateway.processes import Running
from benchmarks.gateway.servers import Server

CONNECTIONS: Final = (1, 16, 64)
STREAMS: Final = 8
DIRECT: Final = "direct"  # the mock upstream without a server before it
READY_S: Final = 60.0
_WARM_REQUESTS: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One burst of load. `cpu_us`: of the server, per request, or per chunk of streams; None for the mock alone."""

    server: str
    load: str  # `whole` or `streams`
    connections: int
    round: int
    answers: int
    failures: int
    cpu_us: float | None
    p50_us: float
    p99_us: float
    rate: float  # answers per second
    bursts: int  # streams that did not arrive chunk by chunk
    rss_mb: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Soak:
    """Resident memory of the gateway: after warming up, after many requests, and after many aborted streams. Refused
    requests take no memory, so `failures` must be 0."""

    requests: int
    aborted: int
    failures: int
    warm_mb: float
    after_requests_mb: float
    after_aborted_mb: float

    @property
    def growth(self) -> float:
        """The memory at the end, as a multiple of that after warming up."""
        return max(self.after_requests_mb, self.after_aborted_mb) / self.warm_mb


def measure(mock_port: int, running: list[Running], *, number: int, seconds: float) -> list[Sample]:
    """The samples of a round. The order of the servers is reversed from round to round."""
    for each in running:
        uvloop.run(drive(request_of(each.server, each.port), connections=16, requests=_WARM_REQUESTS))
    samples = []
    order = running if number % 2 == 0 else running[::-1]
    for connections in CONNECTIONS:
        samples.append(_sample(None, mock_port, number, connections, seconds))
        samples += [_sample(each, each.port, number, connections, seconds) for each in order]
    return samples + [_sample(each, each.port, number, STREAMS, seconds, stream=True) for each in order]


def wait_until_ready(running: Running) -> None:
    """Return when the server answers. Raises RuntimeError if it does not in time."""
    deadline_s = time.monotonic() + READY_S
    while time.monotonic() < deadline_s:
        if uvloop.run(drive(request_of(running.server, running.port), connections=1, requests=1)).latencies_s:
            return
        time.sleep(0.2)
    raise RuntimeError(f"{running.server.name} listens, but does not answer with status 200")


def soak(gateway: Running, *, requests: int, aborted: int) -> Soak:
    """See `Soak`."""
    whole = request_of(gateway.server, gateway.port)
    stream = request_of(gateway.server, gateway.port, stream=True)

    failures = 0

    def load(count: int) -> float:
        nonlocal failures
        failures += uvloop.run(drive(whole, connections=64, requests=count)).failures
        return gateway.rss_mb()

    failures += uvloop.run(abort_streams(stream, count=aborted // 10, connections=64))
    warm_mb = load(requests // 10)
    after_requests_mb = load(requests)
    failures += uvloop.run(abort_streams(stream, count=aborted, connections=64))
    return Soak(
        requests=requests,
        aborted=aborted,
        failures=failures,
        warm_mb=warm_mb,
        after_requests_mb=after_requests_mb,
        after_aborted_mb=gateway.rss_mb(),
    )


def request_of(server: Server, port: int, *, stream: bool = False) -> Request:
    """A chat of twelve messages and about 4 KB."""
    roles = ("user", "assistant")
    messages = [{"role": roles[number % 2], "content": "word " * 60} for number in range(11)]
    messages.append({"role": "user", "content": "Summarise what we have said so far in three sentences."})
    body: dict[str, Any] = {"model": server.model, "messages": messages}
    if stream:
        body["stream"] = True
    return Request(port=port, path=server.path, body=json.dumps(body).encode(), headers=server.headers)


def _sample(
    running: Running | None, port: int, number: int, connections: int, seconds: float, *, stream: bool = False
) -> Sample:
    server = running.server if running else Server(name=DIRECT, prepare=lambda _folder, _ports: [])
    request = request_of(server, port, stream=stream)
    before_s = running.cpu_s() if running else 0.0
    answers: Answers = uvloop.run(drive(request, connections=connections, seconds=seconds))
    count = len(answers.latencies_s)
    units = max(1, count * (CHUNKS if stream else 1))
    return Sample(
        server=server.name,
        load="streams" if stream else "whole",
        connections=connections,
        round=number,
        answers=count,
        failures=answers.failures + answers.cut,
        cpu_us=1e6 * (running.cpu_s() - before_s) / units if running else None,
        p50_us=answers.quantile_us(0.5),
        p99_us=answers.quantile_us(0.99),
        rate=count / answers.seconds,
        bursts=answers.bursts,
        rss_mb=running.rss_mb() if running else None,
    )
