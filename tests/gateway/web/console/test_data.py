"""The data of the console: decisions, live events, lanes, and the comparison of policies."""

import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from gateway.web.console.policy_process import Comparison, Request, run

pytestmark = pytest.mark.anyio

POLICY = """
version: 1
targets:
  first: {kind: openai, url: "%s", model: m, location: in_cluster, capabilities: [chat]}
  second: {kind: openai, engine: openai, url: "%s", model: m, location: in_cluster}
routes:
  - {name: default, use: first, fall_back: second, slo: {p95_ms: 60000}}
"""
OWN = {"x-twolane-console": "1", "content-type": "application/json"}
TARGET = "{kind: openai, engine: openai, url: 'http://127.0.0.1:1', model: m, location: in_cluster}"
RUNNING = f"version: 1\ntargets:\n  a: {TARGET}\n  b: {TARGET}\nroutes:\n  - {{name: default, use: a}}\n"
HI = json.dumps({"model": "auto", "messages": [{"role": "user", "content": "hi"}]})


@pytest.fixture
async def gateway(fake: Any, serving: Any) -> AsyncIterator[Any]:
    async with fake() as server, serving(POLICY % (server.url, server.url)) as made:
        yield made


async def get(gateway: Any, path: str) -> Any:
    async with gateway.client.get(f"{gateway.admin_url}/console/api/{path}") as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def events(gateway: Any, listed: Any, names: set[str]) -> dict[str, Any]:
    """The first event of each of these names."""
    found: dict[str, Any] = {}
    name = ""
    query = f"after={listed['count']}&instance={listed['instance']}"
    async with gateway.client.get(f"{gateway.admin_url}/console/api/live?{query}") as response:
        async for line in response.content:
            key, _, value = line.decode().rstrip("\n").partition(": ")
            name = value if key == "event" else name
            if key == "data":
                found.setdefault(name, json.loads(value))
            if names <= found.keys():
                break
    return found


async def test_decisions_are_listed_oldest_first_and_opened_by_id(gateway: Any) -> None:
    secret = "the text of the prompt"
    body = {"model": "auto", "messages": [{"role": "user", "content": secret}], "stop": "x"}
    ids = [(await gateway.ask(body))[1]["x-request-id"] for _ in range(3)]
    listed = await get(gateway, "decisions")
    rows = [dict(zip(listed["columns"], row, strict=True)) for row in listed["rows"]]
    assert ([row["id"] for row in rows], listed["scope"], listed["count"]) == (ids, "process", 3)
    assert (rows[0]["fallback"], rows[0]["attempts"]) == ("unsupported", "first=unsupported,second=ok")
    record = await get(gateway, f"decisions/{ids[1]}")
    assert [(each["target"], each["skipped"]) for each in record["attempts"]] == [("first", True), ("second", False)]
    assert record["timings_ms"]["classify"] >= 0
    assert secret not in json.dumps([listed, record])
    async with gateway.client.get(f"{gateway.admin_url}/console/api/decisions/nothing") as response:
        assert response.status == 404


async def test_live_events_bring_new_decisions_and_the_lanes(gateway: Any) -> None:
    await gateway.ask()
    listed = await get(gateway, "decisions")
    _, headers, _ = await gateway.ask()
    found = await events(gateway, listed, {"hello", "decisions", "lanes"})
    assert [row[1] for row in found["decisions"]["rows"]] == [headers["x-request-id"]]
    lane = found["lanes"]["lanes"][0]
    assert (lane["route"], lane["target"], lane["state"], lane["budget_ms"], lane["calls"]) == (
        "default", "first", "serving", 60000, 2,
    )  # fmt: skip
    assert [target["target"] for target in found["lanes"]["targets"]] == ["first", "second"]


async def test_a_page_of_another_process_gets_a_new_listing(gateway: Any) -> None:
    """After a restart, or where several processes share the port."""
    _, headers, _ = await gateway.ask()
    found = await events(gateway, {"count": 0, "instance": "another"}, {"listing"})
    assert ([row[1] for row in found["listing"]["rows"]], found["listing"]["count"]) == ([headers["x-request-id"]], 1)


async def test_live_streams_end_when_the_gateway_stops(gateway: Any) -> None:
    async with gateway.client.get(f"{gateway.admin_url}/console/api/live") as response:
        await response.content.readline()
        gateway.gateway.begin_drain()
        await response.read()


async def test_the_running_policy_is_shown_as_its_file_with_variables_unread(gateway: Any) -> None:
    shown = await get(gateway, "policy")
    assert "name: default" in shown["text"]
    assert shown["version"] == gateway.gateway.policies.current.version


async def test_a_proposal_is_compared_in_a_process_of_its_own(gateway: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", "not-for-pages")
    text = (await get(gateway, "policy"))["text"]
    url = f"{gateway.admin_url}/console/api/policy/compare"
    body = {"policy": text.replace("use: first", 'use: "${A_SECRET}"')}
    async with gateway.client.post(url, json=body, headers=OWN) as response:
        proposed = (await response.json())["proposed"]
    assert (proposed["error"]["line"], "A_SECRET" in proposed["error"]["message"]) == (7, True)
    assert "not-for-pages" not in json.dumps(proposed)
    async with gateway.client.post(url, json={"policy": 1}, headers=OWN) as response:
        assert response.status == 400


def compared(proposed: str, **more: Any) -> Any:
    return msgspec.to_builtins(run(Comparison(running=RUNNING, proposed=proposed, **more)))


def test_a_mistake_has_its_line_and_column() -> None:
    found = compared(RUNNING.replace("use: a", "use: z"))
    assert found["running"]["routes"] == ["default"]
    assert (found["proposed"]["error"]["line"], "z" in found["proposed"]["error"]["message"]) == (6, True)


def test_a_request_is_explained_by_both_policies() -> None:
    request = Request(path="/v1/chat/completions", body=HI)
    found = compared(RUNNING.replace("use: a", "use: b"), request=request)
    first = [found[name]["explanation"]["candidates"][0]["target"] for name in ("running", "proposed")]
    assert first == ["a", "b"]
    broken = compared(RUNNING, request=Request(path="/v1/chat/completions", body="{}"))
    assert broken["running"]["explanation"]["error"]["param"] in ("model", "messages")


def test_recent_decisions_are_replayed_by_both_policies() -> None:
    record = {
        "time": "2026-07-01T12:00:00Z", "task": "chat", "confidence": 1.0, "evidence": "trace", "route": "default",
        "outcome": "ok", "total_ms": 100.0, "target": "a", "input_tokens": 3, "output_tokens": 2,
        "attempts": [{"target": "a", "started_ms": 0.0, "ended_ms": 100.0, "outcome": "ok", "skipped": False}],
    }  # fmt: skip
    given = {"running": RUNNING, "proposed": RUNNING.replace("use: a", "use: b"), "log": [record] * 20}
    found = msgspec.to_builtins(run(msgspec.convert(given, Comparison)))["simulation"]
    assert (found["old"]["requests"], found["assumed"]) == (20, ["b"])
    assert found["old"]["p95_ms"] < found["new"]["p95_ms"]
    assert [(each["old_target"], each["new_target"], each["requests"]) for each in found["moved"]] == [("a", "b", 20)]


@pytest.mark.slow
async def test_a_text_that_expands_without_end_is_refused_and_the_gateway_goes_on(gateway: Any) -> None:
    levels = [f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]" for n in range(1, 12)]
    bomb = "\n".join(["version: 1", "x0: &x0 [lol, lol]", *levels]) + "\n"
    url = f"{gateway.admin_url}/console/api/policy/compare"
    async with gateway.client.post(url, json={"policy": bomb}, headers=OWN) as response:
        body = await response.json()
    refused = body.get("error") or body["proposed"]["error"]
    assert refused["message"]
    assert (await gateway.ask())[0] == 200
