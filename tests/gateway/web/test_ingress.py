"""Requests wait for their turn before they are read, and an overloaded gateway refuses them by their head."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from gateway.reliability.load_shedding import LoadShedder, SheddingRule
from gateway.reliability.loop_lag import LoopLag
from gateway.telemetry.loop_lag import LoopWatch
from gateway.web.ingress import MAX_DISCARDED_BYTES, SHORT_TURN_S, STARTS_PER_SHORT_TURN, STARTS_PER_TURN, Ingress
from tests.gateway.serving import ask, one_lane
from tests.gateway.virtual import run_virtual

PATH = "/v1/chat/completions"
REFUSE_ALL = SheddingRule(max_delay_s=-1, overloaded_delay_s=-1)
TURN_S = 0.005
LAST = b"GET /live HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"


class Client:
    """A connection with one request after the other; each start takes a while."""

    def __init__(self, key: str, results: Counter[tuple[str, str]]) -> None:
        self.key = key
        self.results = results
        self.is_open = True
        self.tasks: set[Any] = set()

    def start(self, cycle: Any) -> None:
        self.results[self.key, "started"] += 1
        cycle.started = True

    def cycle(self) -> Any:
        """A request of this client."""
        scope = {"key": self.key, "state": {}, "method": "POST", "path": PATH}
        return SimpleNamespace(scope=scope, is_last=False, is_disconnected=False, body_is_complete=True,
                               started=False, respond=self.refused)  # fmt: skip

    def refused(self, *_: Any) -> None:
        self.results[self.key, "refused"] += 1


def arrive(ingress: Ingress, client: Client) -> Any:
    cycle = client.cycle()
    ingress.arrive(client, cycle)  # type: ignore[arg-type]
    return cycle


def ingress_of(clock: Any, shed: list[None], *, lag: LoopLag | None = None) -> Ingress:
    return Ingress(
        paths=frozenset({PATH}),
        watch=LoopWatch(lag or LoopLag(), lambda _: None, clock=clock),
        on_shed=lambda: shed.append(None),
        key_of=lambda scope: scope["key"],
    )


def overloaded(rates: dict[str, float], seconds: float) -> tuple[Counter[tuple[str, str]], int]:
    """Requests per second by key, at a loop whose turns take 5 ms: 800 starts a second."""
    results, shed, now_s = Counter[tuple[str, str]](), list[None](), 0.0

    async def story() -> None:
        nonlocal now_s
        ingress = ingress_of(lambda: now_s, shed)
        due = dict.fromkeys(rates, 0.0)
        while now_s < seconds:
            for key, rate in rates.items():
                while due[key] <= now_s:
                    arrive(ingress, Client(key, results))
                    due[key] += 1 / rate
            await asyncio.sleep(0)
            now_s += TURN_S

    run_virtual(story())
    return results, len(shed)


def test_below_the_capacity_every_request_is_started() -> None:
    results, shed = overloaded({"a": 700}, 10)
    assert (results["a", "refused"], shed) == (0, 0)


def test_above_the_capacity_the_surplus_is_refused_and_the_rest_served() -> None:
    results, shed = overloaded({"a": 1200}, 10)
    assert results["a", "started"] >= 0.95 * 800 * 10
    assert results["a", "refused"] == shed >= 0.25 * 1200 * 10


def test_short_turns_start_more_requests() -> None:
    async def started(turn_s: float) -> list[int]:
        results, now_s, found = Counter[tuple[str, str]](), 0.0, list[int]()
        ingress = ingress_of(lambda: now_s, [])
        for _ in range(4 * STARTS_PER_SHORT_TURN):
            arrive(ingress, Client("a", results))
        for _ in range(3):
            found.append(results["a", "started"])
            await asyncio.sleep(0)
            now_s += turn_s
        return [after - before for before, after in pairwise(found)]

    assert run_virtual(started(2 * SHORT_TURN_S)) == [STARTS_PER_TURN, STARTS_PER_TURN]
    assert run_virtual(started(SHORT_TURN_S / 2)) == [STARTS_PER_TURN, STARTS_PER_SHORT_TURN]


def test_a_key_within_its_share_is_not_refused_when_another_one_floods() -> None:
    results, _ = overloaded({"flood": 2000, "quiet": 200}, 10)
    assert results["quiet", "refused"] == 0
    assert results["flood", "refused"] >= 0.5 * 20_000
    assert results["flood", "started"] >= 0.9 * 600 * 10


def test_a_key_within_its_share_is_not_refused_when_many_others_flood() -> None:
    results, _ = overloaded({**{f"flood {each}": 500 for each in range(20)}, "quiet": 20}, 3)
    assert results["quiet", "refused"] == 0


def test_a_loop_that_lags_for_other_reasons_refuses_too_but_not_after_a_hiccup() -> None:
    async def story(turns_s: list[float]) -> Counter[tuple[str, str]]:
        results, lag, now_s = Counter[tuple[str, str]](), LoopLag(), 0.0
        ingress = ingress_of(lambda: now_s, [], lag=lag)
        lag.mark(now_s)
        for turn_s in turns_s:
            now_s += turn_s
            lag.mark(now_s)
            arrive(ingress, Client("a", results))
            await asyncio.sleep(0)
        return results

    assert run_virtual(story([0.002, 1.0, 0.002, 0.002]))["a", "refused"] == 0
    assert run_virtual(story([0.4] * 12))["a", "refused"] >= 4


def test_a_client_that_left_while_its_request_waited_is_forgotten() -> None:
    async def story() -> Counter[tuple[str, str]]:
        results = Counter[tuple[str, str]]()
        ingress = ingress_of(lambda: 0.0, [])
        gone = Client("gone", results)
        for _ in range(STARTS_PER_TURN):
            arrive(ingress, Client("a", results))
        arrive(ingress, gone)
        gone.is_open = False
        await asyncio.sleep(0)
        return results

    assert run_virtual(story()) == {("a", "started"): STARTS_PER_TURN}


def test_a_request_that_waited_does_not_run_with_the_variables_of_another_one() -> None:
    mark, seen = ContextVar("mark", default="none"), list[str]()

    class Noting(Client):
        def start(self, cycle: Any) -> None:
            seen.append(mark.get())

    async def story() -> None:
        ingress = ingress_of(lambda: 0.0, [])
        mark.set("of the request that has just ended")
        for _ in range(STARTS_PER_TURN + 2):
            arrive(ingress, Noting("a", Counter()))
        await asyncio.sleep(0)

    run_virtual(story())
    assert seen[STARTS_PER_TURN:] == ["none", "none"]


def test_a_client_that_left_is_not_refused_when_its_place_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.web.ingress.MAX_WAITING", 2)

    async def story() -> tuple[Counter[tuple[str, str]], list[None]]:
        results, shed = Counter[tuple[str, str]](), list[None]()
        ingress = ingress_of(lambda: 0.0, shed)
        for _ in range(STARTS_PER_TURN):
            arrive(ingress, Client("a", results))
        for _ in range(2):
            gone = Client("gone", results)
            arrive(ingress, gone)
            gone.is_open = False
        arrive(ingress, Client("quiet", results))
        await asyncio.sleep(0)
        return results, shed

    assert run_virtual(story()) == ({("a", "started"): STARTS_PER_TURN, ("quiet", "started"): 1}, [])


@pytest.fixture
def refusing(serving: Any, fake: Any) -> Any:
    """A real gateway that refuses everything."""

    @contextlib.asynccontextmanager
    async def serve() -> Any:
        async with fake() as server, serving(one_lane(server.url)) as gateway:
            gateway.gateway.ingress._shedder = LoadShedder(REFUSE_ALL)
            yield gateway, server

    return serve


@pytest.mark.anyio
async def test_a_refusal_is_an_openai_error_that_tells_when_to_retry(refusing: Any) -> None:
    async with refusing() as (gateway, server):
        told = [await gateway.ask(ask()) for _ in range(3)]
        page = await gateway.metrics()
        async with (
            gateway.client.get(f"{gateway.url}/health") as health,
            gateway.client.get(f"{gateway.url}/v1/models") as models,
        ):
            assert (health.status, models.status) == (200, 200)
    for status, headers, body in told:
        assert (status, headers["retry-after"], headers["x-should-retry"]) == (503, "1", "true")
        assert headers["x-request-id"].startswith("req_")
        assert body["error"] == {
            "message": "The gateway is overloaded; try again later.",
            "type": "server_error",
            "param": None,
            "code": "overloaded",
        }
    assert server.bodies == []
    assert "twolane_shed_requests_total 3.0" in page
    assert "twolane_event_loop_lag_seconds_bucket" in page


async def send(gateway: Any, *parts: bytes) -> bytes:
    """Everything that the gateway sends on one connection."""
    host, port = gateway.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    for part in parts:
        writer.write(part)
    writer.write_eof()
    try:
        return await reader.read()
    finally:
        writer.close()


def request(body: bytes, *headers: bytes) -> bytes:
    lines = (b"POST %s HTTP/1.1" % PATH.encode(), b"host: localhost", b"content-length: %d" % len(body), *headers)
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


@pytest.mark.anyio
async def test_a_refused_connection_serves_the_next_request(refusing: Any) -> None:
    async with refusing() as (gateway, _):
        body = orjson.dumps(ask())
        answer = await send(gateway, request(body), LAST)
    assert answer.count(b"HTTP/1.1 503") == 1
    assert b"HTTP/1.1 200 OK" in answer


@pytest.mark.anyio
async def test_a_large_body_is_not_read_to_its_end(refusing: Any) -> None:
    async with refusing() as (gateway, _):
        answer = await send(gateway, request(b" " * (MAX_DISCARDED_BYTES + 1)))
        waiting = await send(gateway, request(b" ", b"expect: 100-continue"))
    for each in (answer, waiting):
        assert each.startswith(b"HTTP/1.1 503")
        assert b"\r\nconnection: close\r\n" in each


@pytest.mark.anyio
async def test_requests_in_one_packet_are_each_refused(refusing: Any) -> None:
    async with refusing() as (gateway, _):
        answer = await send(gateway, request(b"{}") * 20, LAST)
    assert answer.count(b"HTTP/1.1 503") == 20
    assert answer.count(b"HTTP/1.1 200") == 1


@pytest.mark.anyio
async def test_requests_beyond_the_share_of_a_turn_wait_and_are_served(
    serving: Any, fake: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr("gateway.web.ingress.STARTS_PER_TURN", 1)
    async with fake() as server, serving(one_lane(server.url)) as gateway:
        told = await asyncio.gather(*(gateway.ask(ask()) for _ in range(20)))
    assert [status for status, _, _ in told] == [200] * 20


def test_the_time_of_a_request_counts_from_its_arrival() -> None:
    async def story() -> list[Any]:
        now_s = 7.0
        ingress = ingress_of(lambda: now_s, [])
        cycles = [arrive(ingress, Client("a", Counter())) for _ in range(STARTS_PER_TURN + 1)]
        now_s = 7.2
        await asyncio.sleep(0)
        assert all(each.started for each in cycles)
        return [each.scope["state"].get("received_s") for each in cycles]

    assert run_virtual(story())[-1] == 7.0


@pytest.mark.anyio
async def test_the_bytes_of_requests_that_wait_are_within_the_budget(serving: Any, fake: Any) -> None:
    async with fake() as server, serving(one_lane(server.url)) as gateway:
        protection = gateway.gateway.protection
        for listener in (protection.public_listener(gateway.gateway.ingress.arrive), protection.admin_listener()):
            assert listener.budget is protection.budget


@pytest.mark.anyio
async def test_the_loop_is_busy_until_a_stream_has_begun_and_not_after_it(serving: Any, fake: Any, wire: Any) -> None:
    may_begin, may_end = asyncio.Event(), asyncio.Event()

    async def answer(request: Any, _: Any) -> Any:
        await may_begin.wait()
        stream = await wire.start_stream(request)
        await stream.write(wire.chunk("hel") + wire.chunk("lo"))
        await may_end.wait()
        await stream.write(wire.stop + b"data: [DONE]\n\n")
        return stream

    async with fake(answer) as server, serving(one_lane(server.url)) as gateway:
        ingress = gateway.gateway.ingress
        body = {"model": "auto", "messages": [{"role": "user", "content": "hi"}], "stream": True}
        asked = asyncio.create_task(gateway.ask(body))
        await until(lambda: bool(server.bodies))
        assert ingress.is_busy
        may_begin.set()
        await until(lambda: not ingress.is_busy)
        assert ingress.has_requests
        may_end.set()
        assert (await asked)[0] == 200
        await until(lambda: not ingress.has_requests)
        assert not ingress.is_busy


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not is_so():  # noqa: ASYNC110 - state of the gateway, which tells nobody
            await asyncio.sleep(0.001)
