"""`POST /v1/feedback` and weights of one's own, through a real gateway and `twolane classifier train`."""

import asyncio
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gateway.simulation.traffic import read_log as read_decisions
from tests.gateway.serving import ask, last_decision, one_lane
from twolane.process.api_keys import key_line

pytestmark = pytest.mark.anyio
PATH = "/v1/feedback"


def with_weights(url: str, name: str) -> str:
    return json.dumps(json.loads(one_lane(url)) | {"classifier": {"weights": name}})


async def events(log: Path, count: int) -> list[dict[str, Any]]:
    """The events of a decision log, once there are so many: a thread writes them."""
    async with asyncio.timeout(60):
        while True:
            lines = [json.loads(line) for line in log.read_text().splitlines()]  # noqa: ASYNC240 - a small file
            found = [line for line in lines if "event" in line]
            if len(found) >= count:
                return found
            await asyncio.sleep(0.01)


async def test_feedback_and_texts_go_to_the_decision_log(serving: Any, fake: Any, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    async with fake() as server:
        policy = one_lane(server.url)
        async with serving(policy, decision_log=log, decision_log_prompts=True) as gateway:
            _, headers, _ = await gateway.ask(ask("Fix it: he go home"))
            await gateway.ask(ask("my secret"), x_twolane_private="true")
            request_id = headers["x-request-id"]
            status, _, answer = await gateway.ask(
                {"request_id": request_id, "rating": "bad", "task": "edit"}, path=PATH
            )
            assert (status, answer["object"], answer["task"]) == (202, "feedback", "edit")
            found = await events(log, 2)
    assert [each["event"] for each in found] == ["prompt", "feedback"]
    assert found[0] == {"event": "prompt", "request_id": request_id, "user": "Fix it: he go home"}
    assert (found[1]["request_id"], found[1]["rating"], found[1]["task"]) == (request_id, "bad", "edit")
    assert "my secret" not in log.read_text()
    assert len(read_decisions(log)) == 2  # events are no decisions


async def test_texts_for_private_routes_and_texts_that_are_not_sent_are_not_logged(
    serving: Any, fake: Any, tmp_path: Path
) -> None:
    log = tmp_path / "log.jsonl"
    async with fake() as server:
        policy = json.loads(one_lane(server.url))
        private = {**policy["routes"][0], "name": "kept", "when": {"header": {"x-team": "legal"}}, "private": True}
        policy["routes"].insert(0, private)
        async with serving(json.dumps(policy), decision_log=log, decision_log_prompts=True) as gateway:
            await gateway.ask(ask("my secret"), x_team="legal")
            await gateway.client.post(f"{gateway.admin_url}/admin/explain", json=ask("only explained"))
            await gateway.ask(ask("an open text"))
            found = await events(log, 1)
    assert [each["user"] for each in found] == ["an open text"]
    assert "my secret" not in log.read_text()


async def test_texts_are_not_logged_by_default(serving: Any, fake: Any, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    async with fake() as server, serving(one_lane(server.url), decision_log=log) as gateway:
        _, headers, _ = await gateway.ask(ask("a text of the client"))
        await gateway.ask({"request_id": headers["x-request-id"], "rating": "good"}, path=PATH)
        await events(log, 1)
    assert "a text of the client" not in log.read_text()


async def test_a_gateway_without_a_log_refuses_feedback(serving: Any, fake: Any) -> None:
    async with fake() as server, serving(one_lane(server.url)) as gateway:
        status, _, answer = await gateway.ask({"request_id": "req_1", "rating": "good"}, path=PATH)
    assert status == 404
    assert "decision log" in answer["error"]["message"]


async def test_feedback_counts_for_the_requests_per_minute_of_its_key_and_for_nothing_else(
    serving: Any, fake: Any, tmp_path: Path
) -> None:
    """Every feedback is a line of the log. A key whose tokens are spent may still say what the answers were worth."""
    limits = [{"keys": ["few", "one"], "requests_per_minute": 1}, {"keys": ["spent"], "tokens_per_day": 1}]
    keys = tmp_path / "keys"
    keys.write_text("".join(key_line(name, f"sk-{name}") + "\n" for name in ("few", "one", "spent")))
    with keys.open("a") as file:
        file.write(key_line("prometheus", "sk-prometheus", ["scopes=metrics"]))
    given = {"request_id": "req_1", "rating": "good"}
    async with fake() as server:
        policy = json.dumps(json.loads(one_lane(server.url)) | {"limits": limits})
        async with serving(policy, decision_log=tmp_path / "log.jsonl", keys_file=keys) as gateway:

            async def give(name: str, body: Any = given) -> int:
                status, headers, _ = await gateway.ask(body, path=PATH, x_api_key=f"sk-{name}")
                assert (status == 429) == ("retry-after" in headers)
                return status

            assert [await give("few"), await give("few"), await give("few", b"[" * 100_000)] == [202, 429, 429]
            assert (await gateway.ask(x_api_key="sk-few"))[0] == 429, "feedback has used up the minute"
            assert (await gateway.ask(x_api_key="sk-one"))[0] == 200
            assert await give("one") == 429
            assert [(await gateway.ask(x_api_key="sk-spent"))[0] for _ in range(2)] == [200, 429]
            assert [await give("spent") for _ in range(9)] == 9 * [202]
            page = await gateway.metrics(x_api_key="sk-prometheus")
    assert 'twolane_key_rate_limited_total{key="few"} 3.0' in page
    assert 'twolane_key_rate_limited_total{key="one"} 1.0' in page


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (b"{", 400, None),
        (b"[]", 400, None),
        ({"rating": "good"}, 400, "request_id"),
        ({"request_id": "a b", "rating": "good"}, 400, "request_id"),
        ({"request_id": "x" * 129, "rating": "good"}, 400, "request_id"),
        ({"request_id": "req_1"}, 400, "rating"),
        ({"request_id": "req_1", "rating": "great"}, 400, "rating"),
        ({"request_id": "req_1", "rating": ["good"]}, 400, "rating"),
        ({"request_id": "req_1", "task": "juggle"}, 400, "task"),
        ({"request_id": "req_1", "task": {}}, 400, "task"),
        ({"request_id": "req_1", "rating": "good", "text": "x"}, 400, "text"),
        (b"[" * 20_000, 413, None),
    ],
)
async def test_invalid_feedback_names_the_field(
    serving: Any, fake: Any, tmp_path: Path, body: Any, status: int, param: str | None
) -> None:
    async with fake() as server, serving(one_lane(server.url), decision_log=tmp_path / "log.jsonl") as gateway:
        found, _, answer = await gateway.ask(body, path=PATH)
    assert (found, answer["error"]["param"]) == (status, param)


@pytest.mark.slow
async def test_feedback_becomes_weights_that_the_running_gateway_loads(
    serving: Any, fake: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From requests to other routing, with a small part of the shipped lines, so that training takes seconds."""
    pytest.importorskip("torch")
    from gateway.classifier.weights import FILE
    from training.classifier import lines, team
    from twolane.classifier import main

    log, weights = tmp_path / "log.jsonl", tmp_path / "own.npz"
    weights.write_bytes(FILE.read_bytes())
    few = list(lines.read_lines())[::200]
    monkeypatch.setattr(lines, "read_lines", lambda: few)
    monkeypatch.setattr(team, "train_team", partial(team.train_team, copies=1, epochs=4))
    async with fake() as server:
        policy = with_weights(server.url, "own.npz")
        settings = {"decision_log": log, "decision_log_prompts": True, "policy_watch_s": 0.02}
        async with serving(policy, **settings) as gateway:
            for number in range(24):
                _, headers, _ = await gateway.ask(ask(f"zorbify the blorp number {number}"))
                await gateway.ask({"request_id": headers["x-request-id"], "task": "translate"}, path=PATH)
            await events(log, 48)
            assert await asyncio.to_thread(main, ["train", "--log", str(log), "--out", str(weights)]) == 0
            async with asyncio.timeout(120):
                while True:
                    _, headers, _ = await gateway.ask(ask("zorbify the blorp please"))
                    if (await last_decision(gateway, headers))["task"] == "translate":
                        break
                    await asyncio.sleep(0.02)
