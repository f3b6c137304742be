"""Rate limits over real sockets: a key over its limit receives 429 with Retry-After, and other keys are not
affected."""

import asyncio
import hashlib
from math import ceil
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from aiohttp import web

from tests.gateway.redis_server import redis_server, until_exchanged
from tests.gateway.serving import ask, completion, fake_server, one_lane, real_gateway, says_hello

pytestmark = pytest.mark.anyio


def keys_of(folder: Path, *names: str) -> Path:
    """A keys file; each key is its name, twice."""
    file = folder / "keys"
    file.write_text("".join(f"{name} sha256:{hashlib.sha256((2 * name).encode()).hexdigest()}\n" for name in names))
    return file


def limited(url: str, *limits: dict[str, Any]) -> str:
    return one_lane(url)[:-1] + f', "limits": {list(limits)}}}'.replace("'", '"')


async def test_a_key_that_used_its_requests_gets_429_and_others_go_on(tmp_path: Path) -> None:
    keys = keys_of(tmp_path, "ann", "bob")
    async with (
        fake_server() as server,
        real_gateway(
            tmp_path, limited(server.url, {"keys": ["ann"], "requests_per_minute": 2}), keys_file=keys
        ) as gateway,
    ):
        answers = [await gateway.ask(authorization="Bearer annann") for _ in range(3)]
        assert [status for status, _, _ in answers] == [200, 200, 429]
        _, headers, body = answers[-1]
        assert body["error"]["code"] == "rate_limit_exceeded"
        assert 28 <= int(headers["retry-after"]) <= 30
        assert "x-twolane-attempts" not in headers
        assert (await gateway.ask(authorization="Bearer bobbob"))[0] == 200
        assert len(server.bodies) == 3  # the refused request reached no target


async def test_tokens_count_when_they_are_told(tmp_path: Path) -> None:
    async with (
        fake_server() as server,  # reports three input and two output tokens
        real_gateway(tmp_path, limited(server.url, {"tokens_per_minute": 4})) as gateway,
    ):
        assert [(await gateway.ask())[0] for _ in range(2)] == [200, 429]


@pytest.mark.parametrize("leaves", [False, True])
async def test_requests_under_way_make_room_when_they_end_however_they_do(tmp_path: Path, leaves: bool) -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def waits(*_: Any) -> web.StreamResponse:
        asked.set()
        await go_on.wait()
        return web.json_response(completion("late"))

    async with (
        fake_server(waits) as server,
        real_gateway(tmp_path, limited(server.url, {"max_in_flight": 1})) as gateway,
    ):
        first = asyncio.create_task(gateway.ask())
        await asked.wait()
        assert (await gateway.ask())[0] == 429
        if leaves:
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
        go_on.set()
        if not leaves:
            assert (await first)[0] == 200
        async with asyncio.timeout(120):
            while (await gateway.ask())[0] != 200:  # noqa: ASYNC110 - its end is told behind its answer
                await asyncio.sleep(0.01)


async def test_a_request_that_is_itself_wrong_costs_nothing(tmp_path: Path) -> None:
    async with (
        fake_server() as server,
        real_gateway(tmp_path, limited(server.url, {"requests_per_minute": 1})) as gateway,
    ):
        wrong = {"model": "nobody", "messages": [{"role": "user", "content": "hi"}]}
        assert [(await gateway.ask(wrong))[0] for _ in range(3)] == [404] * 3
        assert [(await gateway.ask())[0] for _ in range(2)] == [200, 429]


@pytest.mark.slow
async def test_two_gateways_hold_a_key_to_one_limit(tmp_path: Path) -> None:
    """Usage at one replica counts at the other too, once it has been received."""
    with redis_server(tmp_path) as redis:
        async with fake_server() as server:
            text, places = limited(server.url, {"requests_per_minute": 10}), (tmp_path / "one", tmp_path / "other")
            for place in places:
                place.mkdir()
            async with (
                real_gateway(places[0], text, redis_url=redis.url) as one,
                real_gateway(places[1], text, redis_url=redis.url) as other,
            ):
                assert (await one.ask())[0] == (await other.ask())[0] == 200
                await until_exchanged(redis, replicas=2)
                began_s = monotonic()
                assert [(await one.ask())[0] for _ in range(4)] == [200] * 4
                await until_exchanged(redis, replicas=2)
                answers = [(await other.ask())[0] for _ in range(9)]
                leaked = ceil((monotonic() - began_s) / 6)
                assert 5 <= answers.count(200) <= 5 + leaked  # nine minus four, plus what has drained


def priced(url: str, **limit: Any) -> str:
    """The fake server reports three input and two output tokens: a request costs 7 millionths of a dollar."""
    price = '"location": "in_cluster", "price": {"input_per_million": 1, "output_per_million": 2}'
    return limited(url, limit).replace('"location":"in_cluster"', price)


@pytest.mark.parametrize("limit", [{"dollars_per_day": 0.00001}, {"tokens_per_day": 9}])
async def test_a_key_that_has_spent_its_daily_budget_gets_429_until_midnight(
    tmp_path: Path, limit: dict[str, Any]
) -> None:
    """The second request is the last one that starts within the budget."""
    async with fake_server() as server, real_gateway(tmp_path, priced(server.url, **limit)) as gateway:
        answers = [await gateway.ask() for _ in range(3)]
        assert [status for status, _, _ in answers] == [200, 200, 429]
        _, headers, body = answers[-1]
        assert body["error"]["code"] == body["error"]["type"] == "insufficient_quota"
        assert 0 < int(headers["retry-after"]) <= 86_400
        assert len(server.bodies) == 2


async def test_a_daily_budget_outlives_the_gateway_where_there_is_a_redis(tmp_path: Path) -> None:
    with redis_server(tmp_path) as redis:
        async with fake_server() as server:
            text = priced(server.url, tokens_per_day=9)
            for statuses in ([200, 200, 429], [429]):
                async with real_gateway(tmp_path, text, redis_url=redis.url) as gateway:
                    assert [(await gateway.ask())[0] for _ in statuses] == statuses


async def test_a_gateway_without_redis_says_that_it_counts_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """At the start, and when a policy with a daily budget is loaded later."""
    async with fake_server() as server, real_gateway(tmp_path, one_lane(server.url)) as gateway:
        assert "counted by each process alone" not in caplog.text
        policy = limited(server.url, {"tokens_per_day": 9})
        await asyncio.to_thread((tmp_path / "policy.yaml").write_bytes, policy.encode())
        await gateway.gateway.watcher.reload()
        assert "counted by each process alone" in caplog.text
    caplog.clear()
    async with real_gateway(tmp_path, policy):
        assert "counted by each process alone" in caplog.text


async def test_headers_say_what_is_left_of_a_keys_limits(tmp_path: Path) -> None:
    async with (
        fake_server() as server,
        real_gateway(tmp_path, limited(server.url, {"requests_per_minute": 2, "tokens_per_minute": 1000})) as gateway,
    ):
        _, first, _ = await gateway.ask()
        assert (first["x-ratelimit-limit-requests"], first["x-ratelimit-remaining-requests"]) == ("2", "1")
        assert 0 < int(first["x-ratelimit-reset-requests"].removesuffix("ms")) <= 30_000
        assert first["x-ratelimit-limit-tokens"] == "1000"
        await gateway.ask()
        status, refused, _ = await gateway.ask()
        assert (status, refused["x-ratelimit-remaining-requests"]) == (429, "0")


async def test_a_heartbeat_sends_what_is_left_of_a_keys_limits(tmp_path: Path) -> None:
    """It is known before the answer, and clients that pace themselves read it from the head."""
    has_head = asyncio.Event()

    async def answer(request: Any, body: Any) -> Any:
        await has_head.wait()
        return await says_hello(request, body)

    async with (
        fake_server(answer) as server,
        real_gateway(tmp_path, limited(server.url, {"requests_per_minute": 2}), heartbeat_s=0.01) as gateway,
        gateway.client.post(f"{gateway.url}/v1/chat/completions", json=ask(stream=True)) as response,
    ):
        assert response.headers["x-ratelimit-remaining-requests"] == "1"
        assert "x-twolane-target" not in response.headers
        has_head.set()
        text = await response.text()
    assert ": x-twolane-target = only" in text
    assert "x-ratelimit" not in text


async def test_without_limits_there_are_no_rate_limit_headers(tmp_path: Path) -> None:
    async with fake_server() as server, real_gateway(tmp_path, one_lane(server.url)) as gateway:
        _, headers, _ = await gateway.ask()
        assert not [name for name in headers if name.startswith("x-ratelimit")]


async def test_clients_errors_are_counted_and_are_no_fault_of_ours(tmp_path: Path) -> None:
    """Over its quota, garbage, a wrong key, an unknown model: alerts leave out the source `client`."""
    keys = keys_of(tmp_path, "ann")
    keys.write_text(keys.read_text().strip() + " scopes=ask,metrics\n")
    async with (
        fake_server() as server,
        real_gateway(tmp_path, limited(server.url, {"keys": ["ann"], "requests_per_minute": 1}), keys_file=keys) as it,
    ):
        statuses = [(await it.ask(authorization="Bearer annann"))[0] for _ in range(2)]
        statuses.append((await it.ask(authorization="Bearer wrong"))[0])
        statuses.append((await it.ask({"messages": "garbage"}, authorization="Bearer annann"))[0])
        assert statuses == [200, 429, 401, 400]
        async with it.client.get(f"{it.admin_url}/metrics", headers={"authorization": "Bearer annann"}) as response:
            page = (await response.text()).splitlines()
    for status in statuses:
        assert f'twolane_http_responses_total{{status="{status}"}} 1.0' in page
    errors = [line for line in page if line.startswith("twolane_requests_total{") and 'outcome="error"' in line]
    assert errors
    assert all('error_source="client"' in line and 'status_class="4xx"' in line for line in errors)
