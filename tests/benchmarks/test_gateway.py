"""The gateway's benchmark: its load, its yardstick and its bars."""

import asyncio
from dataclasses import replace
from typing import Any

import aiohttp
import orjson
import pytest

from benchmarks.gateway import mock_upstream, report, servers
from benchmarks.gateway.bare_relay import Relay
from benchmarks.gateway.load import Request, abort_streams, drive
from benchmarks.gateway.measure import DIRECT, Sample, Soak
from gateway.policy_files.load import parse
from tests.gateway.serving import fake_server
from tests.scripted_server import scripted_server

pytestmark = pytest.mark.anyio
SAMPLE = Sample(
    server=DIRECT,
    load="whole",
    connections=1,
    round=0,
    answers=100,
    failures=0,
    cpu_us=None,
    p50_us=100,
    p99_us=200,
    rate=1,
    bursts=0,
    rss_mb=None,
)
STEADY = Soak(requests=10, aborted=1, failures=0, warm_mb=100, after_requests_mb=101, after_aborted_mb=102)
GOOD = {servers.RELAY: 100.0, servers.GATEWAY: 90.0, servers.TRACED: 93.0, servers.TENSORZERO: 150.0}


def samples(**cpu_us: float) -> list[Sample]:
    """Two rounds, in which every server costs and adds `cpu_us` for everything that is measured."""
    costs = GOOD | {servers.NGINX: 50.0} | {name.replace("_", " "): value for name, value in cpu_us.items()}
    found = []
    for number in range(2):
        for connections in (1, 16, 64):
            found.append(replace(SAMPLE, connections=connections, round=number))
            found += [
                replace(SAMPLE, server=name, connections=connections, round=number, cpu_us=cost,
                        p50_us=100 + cost, p99_us=200 + cost)
                for name, cost in costs.items()
            ]  # fmt: skip
        found += [
            replace(SAMPLE, server=name, load="streams", connections=8, round=number, cpu_us=cost)
            for name, cost in costs.items()
        ]
    return found


def missed(found: list[report.Bar]) -> set[str]:
    return {bar.name for bar in found if not bar.is_met}


def test_a_gateway_cheaper_than_the_relay_meets_every_bar() -> None:
    assert missed(report.bars(samples(), STEADY)) == set()


def test_a_dear_gateway_misses_every_ratio_that_it_is_compared_by() -> None:
    names = missed(report.bars(samples(twolane=400.0, twolane_traced=500.0), STEADY))
    assert names == {bar.name for bar in report.bars(samples(), STEADY)} - {
        "memory after the soak, to before",
        "failed requests",
    }


def test_memory_that_grows_and_failed_requests_miss_their_bars() -> None:
    grown = Soak(requests=10, aborted=1, failures=0, warm_mb=100, after_requests_mb=100, after_aborted_mb=120)
    bad = [replace(each, failures=1) if each.server == servers.GATEWAY else each for each in samples()]
    assert missed(report.bars(bad, grown)) == {"memory after the soak, to before", "failed requests"}
    assert missed(report.bars(samples(), replace(STEADY, failures=1))) == {"failed requests"}


def test_streams_in_bursts_and_absent_peers_are_not_counted() -> None:
    bursts = [replace(each, bursts=50) if each.load == "streams" else each for each in samples(twolane=400.0)]
    found = {
        bar.name: bar.ratio for bar in report.bars([each for each in bursts if each.server != servers.TENSORZERO], None)
    }
    assert found["CPU per chunk, to nginx"] is None
    assert found["CPU per request at 16, to TensorZero"] is None
    assert found["CPU per request at 16, to the bare relay"] == 4.0


def test_what_was_not_measured_is_not_met_unless_it_needs_a_peer() -> None:
    names = missed(report.bars([each for each in samples() if each.server == servers.GATEWAY], None))
    assert names == {bar.name for bar in report.bars([], None) if "TensorZero" not in bar.name} - {
        "CPU per chunk, to nginx",
        "failed requests",
    }


@pytest.mark.parametrize("without", [frozenset(), frozenset(servers.PARTS)])
def test_the_policy_of_the_benchmark_is_valid(without: frozenset[str]) -> None:
    text = orjson.dumps(servers.policy(9, without)).decode()
    rules = parse(text, {}).rules
    assert len(rules) == 3
    assert {(rule.route.slo is None, rule.route.fall_back) for rule in rules} == {
        (bool(without), () if without else ("second",))
    }


def request(url: str, **body: Any) -> Request:
    port = int(url.rpartition(":")[2])
    return Request(port=port, path="/v1/chat/completions", body=orjson.dumps({"messages": [], **body}))


async def test_the_load_counts_answers_failures_and_streams_that_arrive_at_once() -> None:
    events = b"".join(mock_upstream.stream_events())
    head = b"HTTP/1.1 %s\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n"

    def script(_: bytes, body: dict[str, Any]) -> tuple[bytes, ...]:
        if body.get("stream"):
            return (head % (b"200 OK", b"text/event-stream", len(events)) + events,)
        return (head % (b"500 No" if body.get("fails") else b"200 OK", b"application/json", 2) + b"{}",)

    async with scripted_server(script) as server:
        whole = await drive(request(server.url), connections=2, requests=6)
        failed = await drive(request(server.url, fails=True), connections=2, requests=6)
        streams = await drive(request(server.url, stream=True), connections=1, requests=3)
        begun = await abort_streams(request(server.url, stream=True), count=3, connections=2)
        refused = await abort_streams(request(server.url, fails=True), count=3, connections=2)
        await asyncio.sleep(0.01)  # for the server to see that its clients have left
    assert (len(whole.latencies_s), whole.failures) == (6, 0)
    assert (len(failed.latencies_s), failed.failures) == (0, 6)
    assert (len(streams.latencies_s), streams.bursts, streams.cut) == (3, 3, 0)
    assert (begun, refused) == (0, 3)


async def test_the_load_ends_if_the_server_hangs_up() -> None:
    async with scripted_server(lambda _head, _body: ()) as server, asyncio.timeout(60):
        answers = await drive(request(server.url), connections=3, requests=9)
    assert answers.failures == 3


async def test_the_relay_replaces_the_model_and_relays_answers_and_streams() -> None:
    async with fake_server() as server:
        relay = Relay(int(server.url.rpartition(":")[2]))
        sent = [await relayed(relay, {"model": "auto", "messages": [], "stream": stream}) for stream in (False, True)]
        await relay.aclose()
        async with aiohttp.ClientSession() as client:
            asked = {"model": "auto", "messages": [], "stream": True}
            async with client.post(f"{server.url}/v1/chat/completions", json=asked) as direct:
                stream = await direct.read()
    assert [body["model"] for body in server.bodies] == ["canned", "canned", "auto"]
    assert orjson.loads(sent[0])["choices"][0]["message"]["content"] == "hello"
    assert sent[1] == stream


async def relayed(relay: Relay, body: dict[str, Any]) -> bytes:
    parts = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": orjson.dumps(body)}

    async def send(message: Any) -> None:
        parts.append(message.get("body", b""))

    await relay({"type": "http"}, receive, send)
    return b"".join(parts)
