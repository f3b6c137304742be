"""The whole gateway over real sockets: decision log, policy reloads, unexpected errors."""

from typing import Any

import orjson
import pytest

from tests.gateway.serving import ask, one_lane

pytestmark = pytest.mark.anyio


async def test_every_request_writes_one_line_to_the_decision_log(fake: Any, serving: Any, tmp_path: Any) -> None:
    file = tmp_path / "decisions.jsonl"
    async with fake() as server, serving(one_lane(server.url), decision_log=file) as gateway:
        ids = [(await gateway.ask(ask(text="SECRET")))[1]["x-request-id"] for _ in range(3)]
    lines = [orjson.loads(line) for line in file.read_text().splitlines()]
    assert [line["id"] for line in lines] == ids
    assert "SECRET" not in file.read_text()


async def test_a_full_decision_log_is_rotated(fake: Any, serving: Any, tmp_path: Any) -> None:
    file, ids = tmp_path / "decisions.jsonl", []
    for _ in range(3):
        settings = {"decision_log": file, "decision_log_bytes": 1, "decision_log_files": 1}
        async with fake() as server, serving(one_lane(server.url), **settings) as gateway:
            ids.append((await gateway.ask(ask()))[1]["x-request-id"])
    kept = [orjson.loads((tmp_path / name).read_bytes())["id"] for name in ("decisions.jsonl.1", "decisions.jsonl")]
    assert kept == ids[1:]
    assert not (tmp_path / "decisions.jsonl.2").exists()


async def test_the_policy_is_reloaded_completely_or_not_at_all(fake: Any, serving: Any, tmp_path: Any) -> None:
    async with fake() as first, fake() as second, serving(one_lane(first.url)) as gateway:
        await gateway.ask()
        (tmp_path / "policy.yaml").write_text("version: 1\ntargets: [broken")
        await gateway.gateway.watcher.reload()
        assert (await gateway.ask())[0] == 200
        (tmp_path / "policy.yaml").write_text(one_lane(second.url))
        await gateway.gateway.watcher.reload()
        await gateway.ask()
        page = await gateway.metrics()
    assert (len(first.bodies), len(second.bodies)) == (2, 1)
    assert 'twolane_policy_reloads_total{result="refused"} 1.0' in page
    assert 'twolane_policy_reloads_total{result="changed"} 1.0' in page


async def test_a_changed_policy_file_is_reloaded_automatically(fake: Any, serving: Any, tmp_path: Any) -> None:
    async with fake() as first, fake() as second, serving(one_lane(first.url), policy_watch_s=0.01) as gateway:
        (tmp_path / "policy.yaml").write_text(one_lane(second.url))
        for _ in range(500):
            await gateway.ask()
            if second.bodies:
                break
        else:
            pytest.fail("the policy was never read again")


async def test_an_unexpected_error_is_still_one_response(fake: Any, serving: Any, monkeypatch: Any) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("a bug")

    async with fake() as server, serving(one_lane(server.url)) as gateway:
        monkeypatch.setattr("gateway.upstreams.openai.body_for", fail)
        status, _, body = await gateway.ask()
        monkeypatch.undo()
        assert 'twolane_in_flight{target="only"} 0.0' in await gateway.metrics()
    assert (status, body["error"]["code"], body["error"]["type"]) == (500, "internal_error", "server_error")
    assert "bug" not in body["error"]["message"]
