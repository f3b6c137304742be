"""The admin port: metrics, recent decisions, explanations."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

pytestmark = pytest.mark.anyio

POLICY = """
version: 1
targets:
  only: {kind: openai, engine: openai, url: "%s", model: m, location: external}
  limited: {kind: openai, capabilities: [chat], url: "%s", model: m, location: in_cluster}
routes:
  - {name: default, use: limited, fall_back: only, slo: {p95_ms: 500}}
"""


@pytest.fixture
async def running(fake: Any, serving: Any) -> AsyncIterator[tuple[Any, Any]]:
    async with fake() as server, serving(POLICY % (server.url, server.url)) as gateway:
        yield gateway, server


async def test_a_recent_decision_is_returned_by_id(running: Any) -> None:
    gateway, _ = running
    _, headers, _ = await gateway.ask()
    async with gateway.client.get(f"{gateway.admin_url}/admin/decisions/{headers['x-request-id']}") as response:
        told = await response.json()
    assert (told["id"], told["route"], told["target"]) == (headers["x-request-id"], "default", "limited")
    async with gateway.client.get(f"{gateway.admin_url}/admin/decisions/req_never") as response:
        assert response.status == 404


async def test_explain_shows_the_plan_and_sends_nothing(running: Any) -> None:
    gateway, server = running
    body = {"model": "auto", "messages": [{"role": "user", "content": "hi"}], "stop": "x"}
    async with gateway.client.post(f"{gateway.admin_url}/admin/explain", json=body) as response:
        told = await response.json()
    assert (told["task"], told["route"], told["needs"]) == ("chat", "default", ["chat", "stop"])
    assert [(each["target"], each["admitted"], each["reason"]) for each in told["candidates"]] == [
        ("limited", False, "unsupported"),
        ("only", True, None),
    ]
    assert server.bodies == []
    assert "twolane_requests_total{" not in await gateway.metrics()


async def test_a_request_of_another_api_is_explained_by_its_path(running: Any) -> None:
    gateway, _ = running
    url = f"{gateway.admin_url}/admin/explain"
    body = {"model": "auto", "prompt": "def f():", "suffix": "f()"}
    async with gateway.client.post(url, params={"path": "/v1/completions"}, json=body) as response:
        told = await response.json()
    assert (told["task"], told["evidence"], told["route"]) == ("autocomplete", "api", "default")
    async with gateway.client.post(url, params={"path": "/v1/audio"}, json=body) as response:
        assert (response.status, (await response.json())["error"]["param"]) == (400, "path")


async def test_explaining_an_invalid_request_names_the_field(running: Any) -> None:
    gateway, _ = running
    async with gateway.client.post(f"{gateway.admin_url}/admin/explain", data=b"{}") as response:
        assert response.status == 400
        assert (await response.json())["error"]["param"] in ("model", "messages")


async def test_metrics_show_requests_lanes_and_the_policy(running: Any) -> None:
    gateway, _ = running
    await gateway.ask()
    page = await gateway.metrics()
    for line in (
        'twolane_requests_total{error_source="",outcome="ok",route="default",status_class="2xx",target="limited",'
        'task="chat"} 1.0',
        'twolane_lane_state{route="default",target="limited"} 0.0',
        'twolane_lane_budget_seconds{route="default",target="limited"} 0.5',
        'twolane_breaker_state{target="only"} 0.0',
        'twolane_in_flight{target="limited"} 0.0',
    ):
        assert line in page, line
    assert "twolane_policy_info{hash=" in page
    assert "twolane_lane_p95_seconds{" not in page  # one response is too few for a p95
