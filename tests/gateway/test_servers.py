"""A target with several endpoints on real sockets: load balancing, reporting, and the failure of one endpoint."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gateway.reliability.breaker import BreakerRule
from tests.gateway.serving import says_hello

pytestmark = pytest.mark.anyio

POLICY = """
version: 1
targets:
  pool: {kind: openai, engine: openai, urls: ["%s", "%s"], model: m, location: in_cluster, retry: {}}
  quality: {kind: openai, engine: openai, url: "%s", model: m, location: external}
routes:
  - {name: default, use: pool, fall_back: quality}
"""
DEAD = "http://127.0.0.1:9"


def asking(prompt: str) -> dict[str, Any]:
    return {"model": "auto", "messages": [{"role": "user", "content": prompt}]}


async def test_prompts_are_spread_and_a_conversation_stays_where_it_began(serving: Any, fake: Any) -> None:
    async with (
        fake() as one,
        fake() as two,
        fake() as three,
        serving(POLICY % (one.url, two.url, three.url)) as gateway,
    ):
        for number in range(30):  # it is improbable that all of them prefer the same endpoint
            for _ in range(2):
                status, headers, _ = await gateway.ask(asking(f"conversation {number}"))
                assert (status, headers["x-twolane-attempts"]) == (200, "pool=ok")
        for server in (one, two):
            prompts = [body["messages"][0]["content"] for body in server.bodies]
            assert prompts
            assert all(prompts.count(prompt) == 2 for prompt in prompts)
        assert 'twolane_breaker_state{target="pool/2"} 0.0' in await gateway.metrics()


async def test_a_server_that_cannot_be_reached_costs_a_call_of_another_one_until_its_breaker_opens(
    serving: Any, fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has not received the request, so that no retry has to be allowed."""
    monkeypatch.setattr("gateway.state.memory.BreakerRule", lambda: BreakerRule(open_s=3600))  # no trial meanwhile
    policy = POLICY.replace(", retry: {}", "")
    async with fake() as alive, fake() as quality, serving(policy % (DEAD, alive.url, quality.url)) as gateway:
        told = [(await gateway.ask(asking(f"number {number}")))[1] for number in range(60)]
    attempts = [headers["x-twolane-attempts"] for headers in told]
    assert set(attempts) == {"pool=ok", "pool=upstream_error,pool=ok"}
    assert attempts[-20:] == ["pool=ok"] * 20
    assert sum(each.count("pool") for each in attempts) <= 1.2 * len(attempts)


async def test_where_no_server_can_be_reached_each_is_called_once(serving: Any, fake: Any) -> None:
    async with fake() as quality, serving(POLICY % (DEAD, f"{DEAD}/x", quality.url)) as gateway:
        _, headers, _ = await gateway.ask(asking("hi"))
    assert headers["x-twolane-attempts"] == "pool=upstream_error,pool=upstream_error,quality=ok"


async def test_a_retry_goes_to_an_endpoint_that_joined_after_the_request_began(
    serving: Any, fake: Any, tmp_path: Path
) -> None:
    """All endpoints that a long request began with may have left when it is tried again."""
    called, closing = asyncio.Event(), asyncio.Event()

    async def dies(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if body["messages"][0]["content"] != "the last":
            return await says_hello(request, body)
        called.set()
        await closing.wait()
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with (
        fake(dies) as old,
        fake(dies) as other,
        fake() as new,
        fake() as newer,
        fake() as quality,
        serving(POLICY % (old.url, other.url, quality.url)) as gateway,
    ):
        for number in range(30):  # a retry must be earned
            await gateway.ask(asking(f"number {number}"))
        asked = asyncio.create_task(gateway.ask(asking("the last")))
        await called.wait()
        (tmp_path / "policy.yaml").write_text(POLICY % (new.url, newer.url, quality.url))
        await gateway.gateway.watcher.reload()
        closing.set()
        status, headers, _ = await asked
    assert (status, headers["x-twolane-attempts"]) == (200, "pool=upstream_error,pool=ok")


async def test_the_list_of_models_has_the_target_once(serving: Any, fake: Any) -> None:
    async with fake() as one, serving(POLICY % (one.url, one.url + "/x", one.url)) as gateway:
        async with gateway.client.get(f"{gateway.url}/v1/models") as response:
            names = [entry["id"] for entry in (await response.json())["data"]]
        status, _, body = await gateway.ask({**asking("hi"), "model": "pool/1"})
    assert names == ["auto", "pool", "quality"]
    assert (status, body["error"]["code"]) == (404, "model_not_found")


async def test_a_decision_says_which_server_was_asked_and_which_was_passed_over(serving: Any, fake: Any) -> None:
    """Endpoints are named by host and port; a target with one server has only its name."""
    async with fake() as one, fake() as quality:
        policy = POLICY.replace("url:", "max_in_flight: 4, url:") % (one.url, DEAD + "/secret", quality.url)
        async with serving(policy) as gateway:
            found = []
            for number in range(12):
                _, headers, _ = await gateway.ask(asking(f"number {number}"))
                decision = f"{gateway.admin_url}/admin/decisions/{headers['x-request-id']}"
                async with gateway.client.get(decision) as response:
                    found += (await response.json())["attempts"]
    urls = {(attempt["target"], attempt["outcome"]): attempt.get("url") for attempt in found}
    assert urls[("pool", "ok")] == one.url.removeprefix("http://")
    assert urls[("pool", "upstream_error")] == DEAD.removeprefix("http://")
    assert urls.get(("quality", "ok")) is None


async def leaves(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
    """The responses of a draining worker."""
    return web.json_response({"error": {"code": "draining", "message": "leaving"}}, status=503)


async def test_a_server_that_leaves_is_passed_over_for_one_beside_it_without_any_allowance(
    serving: Any, fake: Any
) -> None:
    policy = POLICY.replace(", retry: {}", "")
    async with (
        fake(leaves) as one,
        fake() as two,
        fake() as quality,
        serving(policy % (one.url, two.url, quality.url)) as gateway,
    ):
        told = [(await gateway.ask(asking(f"number {number}")))[1] for number in range(20)]
    assert {headers["x-twolane-attempts"] for headers in told} == {"pool=ok", "pool=not_resident,pool=ok"}


async def test_where_all_servers_leave_each_is_asked_once(serving: Any, fake: Any) -> None:
    async with (
        fake(leaves) as one,
        fake(leaves) as two,
        fake() as quality,
        serving(POLICY % (one.url, two.url, quality.url)) as gateway,
    ):
        _, headers, _ = await gateway.ask(asking("hi"))
        assert (len(one.bodies), len(two.bodies)) == (1, 1)
    assert headers["x-twolane-attempts"] == "pool=not_resident,pool=not_resident,quality=ok"
