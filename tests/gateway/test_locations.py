"""Requests that are limited to locations, from the HTTP request to the calls of targets."""

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.enums import ErrorSource, Residency
from gateway.errors import NotResident, Overloaded, UpstreamError
from gateway.policy_types import Hedge, Retry, allowed_by
from gateway.types import Status
from gateway.upstreams.scripted import fails, says
from gateway.web.apis.table import APIS
from tests.gateway.serving import fake_server
from tests.gateway.virtual import LoopClock, run_virtual
from twolane.process.api_keys import Key

LABELS = ("in_cluster", "eu", "us-east")
NAMES = ("fast", "careful", "quality", "mirror")
SETS = st.frozensets(st.sampled_from((*LABELS, "mars")), min_size=1)
LINES = st.sampled_from(
    [
        says("yes", confidence=0.9),
        says("yes", before_s=3),
        says("no", confidence=0.1),
        fails(),
        fails(Overloaded("full")),
        fails(NotResident("cold")),
        fails(UpstreamError("x"), "y"),
    ]
)
USER = [{"role": "user", "content": "hi"}]
# A request for each API.
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": USER},
    "/v1/responses": {"input": "hi"},
    "/v1/completions": {"prompt": "hi"},
    "/v1/fim/completions": {"prompt": "hi", "suffix": "you"},
    "/v1/edit/completions": {"messages": [{"role": "user", "content": "<|code_to_edit|>a<|/code_to_edit|>"}]},
    "/v1/apply/completions": {
        "messages": [
            {"role": "user", "content": "<|original_code|>a<|/original_code|><|update_snippet|>b<|/update_snippet|>"}
        ]
    },
    "/v1/messages": {"messages": USER, "max_tokens": 9},
    "/v1/messages/count_tokens": {"messages": USER},
    "/v1/decisions": {"input": "hi", "questions": [{"type": "predicate", "instructions": "Is it?", "name": "q"}]},
    "/v1/embeddings": {"input": "hi"},
}


CASES = st.fixed_dictionaries(
    {
        "lines": st.tuples(*(LINES for _ in NAMES)),
        "places": st.tuples(*(st.sampled_from((None, *LABELS)) for _ in NAMES)),
        "private_locations": SETS,
        "of_route": st.none() | SETS,
        "of_header": st.none() | SETS,
        "is_private": st.booleans(),
        "is_private_route": st.booleans(),
        "is_stream": st.booleans(),
        "is_cold": st.booleans(),
        "model": st.sampled_from(("auto", "quality")),
    }
)


def played(stage: Any, case: dict[str, Any]) -> tuple[Any, Any]:
    """The scene after one request and its shadow, and what the client received. In virtual time."""
    route = {
        "private": case["is_private_route"],
        "locations": case["of_route"],
        "shadow": ("mirror", 1.0),
        "min_confidence": 0.5,
        "hedge": Hedge(after_ms=100, max_share=1.0),
    }
    given: dict[str, Any] = dict(zip(NAMES, ([line] * 3 for line in case["lines"]), strict=True))
    for name, place in zip(NAMES, case["places"], strict=True):
        given[f"{name}_target"] = {"location": place, "retry": Retry()}
    headers = {} if case["of_header"] is None else {b"x-twolane-locations": ",".join(case["of_header"]).encode()}
    headers |= {b"x-twolane-private": b"1"} if case["is_private"] else {}

    async def story() -> Any:
        scene = stage(clock=LoopClock(), route=route, private_locations=case["private_locations"], **given)
        if case["is_cold"]:
            scene.targets["fast"].status = Status(residency=Residency.COLD)
        sent = await scene.send(model=case["model"], stream=case["is_stream"], headers=headers)
        await asyncio.sleep(100)
        await scene.pipeline.aclose()
        return scene, sent

    found: tuple[Any, Any] = run_virtual(story())
    return found


@given(CASES)
def test_whatever_the_policy_and_the_targets_do_no_call_leaves_the_allowed_locations(
    stage: Any, case: dict[str, Any]
) -> None:
    """Not by fallback, retry, hedge, shadow or last resort."""
    scene, sent = played(stage, case)
    is_routed = case["model"] == "auto"
    is_private = case["is_private"] or (case["is_private_route"] and is_routed)
    limits = [case["of_header"], case["of_route"] if is_routed else None]
    limits.append(case["private_locations"] if is_private else None)
    holding = [each for each in limits if each is not None]
    places = dict(zip(NAMES, case["places"], strict=True))
    called = {places[name] for name, target in scene.targets.items() if target.calls}
    assert all(place in limit for place in called for limit in holding)
    attempts = scene.decision.attempts
    assert all(each.location in limit for each in attempts for limit in holding)
    if not attempts:
        assert holding
        assert sent.error.code in ("no_target_in_location", "no_private_target")


@pytest.mark.parametrize("path", APIS)
def test_every_api_reads_the_limits_of_header_metadata_and_key(path: str) -> None:
    body = {"model": "auto", "metadata": {"Twolane_Locations": "eu, mars"}, **BODIES[path]}
    key = Key(name="ann", locations=frozenset({"eu"}))
    headers = {b"x-twolane-locations": b"eu, us-east"}
    query = APIS[path].read(orjson.dumps(body), headers, now_s=0.0, key=key)
    sources = [limit.source for limit in query.locations]
    assert sources == ["x-twolane-locations", "metadata.Twolane_Locations", "the API key"]
    assert allowed_by(query.locations) == {"eu"}


@pytest.mark.anyio
async def test_a_limit_without_a_target_is_the_clients_and_calls_nobody(stage: Any) -> None:
    scene = stage(fast=says("no"), quality=says("no"))
    sent = await scene.send(headers={b"x-twolane-locations": b"mars"})
    assert (sent.error.status, sent.error.code, sent.error.retryable) == (503, "no_target_in_location", False)
    assert (scene.decision.locations, scene.decision.error_source) == ({"mars"}, ErrorSource.CLIENT)
    assert not any(target.calls for target in scene.targets.values())


@pytest.mark.anyio
async def test_an_outage_of_the_allowed_targets_says_that_others_were_not_tried(stage: Any) -> None:
    scene = stage(fast=fails(), quality=says("no"))
    sent = await scene.send(headers={b"x-twolane-locations": b"in_cluster"})
    assert (sent.error.code, sent.error.retryable) == ("no_target_in_location", True)
    assert sent.error.message.startswith("No target in in_cluster, to which the request is limited, could serve it.")
    assert scene.decision.error_source is ErrorSource.GATEWAY
    assert scene.targets["quality"].calls == []


@pytest.mark.anyio
async def test_a_count_of_tokens_stays_in_the_allowed_locations(stage: Any) -> None:
    scene = stage(fast=says("no"), quality=says("no"))
    query = scene.query(headers={b"x-twolane-locations": b"external"})
    assert (await scene.pipeline.count_tokens(query)).target.name == "quality"
    assert scene.targets["fast"].calls == []


LANES = """
version: 1
targets:
  near: {{kind: openai, url: "{near}", model: m, engine: vllm, location: eu}}
  far: {{kind: openai, url: "{far}", model: m, engine: vllm, location: us}}
routes:
  - {{name: european, when: {{header: {{x-team: law}}}}, use: near, locations: eu}}
  - {{name: default, use: far, fall_back: near}}
"""


@pytest.mark.anyio
async def test_what_was_stored_under_a_limit_keeps_it_in_later_requests(serving: Any) -> None:
    """A limit of the header, and one of the route that the first request took."""
    async with (
        fake_server() as near,
        fake_server() as far,
        serving(LANES.format(near=near.url, far=far.url), responses_bytes=100_000) as gateway,
    ):

        async def respond(body: dict[str, Any], **headers: str) -> str:
            url = f"{gateway.url}/v1/responses"
            async with gateway.client.post(url, json={"model": "auto", **body}, headers=headers) as answer:
                assert answer.status == 200, await answer.text()
                return str((await answer.json())["id"])

        for headers in ({"x-twolane-locations": "eu"}, {"x-team": "law"}):
            first = await respond({"input": "secret", "store": True}, **headers)
            second = await respond({"input": "b", "previous_response_id": first, "store": True})
            await respond({"input": "c", "previous_response_id": second})
            item = f"msg_{first.removeprefix('resp_')}_0"
            await respond({"input": [{"type": "item_reference", "id": item}, {"role": "user", "content": "d"}]})
        assert (len(near.bodies), len(far.bodies)) == (8, 0)
        await respond({"input": "e"})
        assert len(far.bodies) == 1


@pytest.mark.anyio
async def test_the_limit_of_a_key_shows_in_the_decision_and_in_an_explanation(serving: Any, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(
        f"ann sha256:{hashlib.sha256(b'a').hexdigest()} locations=eu\n"
        f"op sha256:{hashlib.sha256(b'o').hexdigest()} scopes=ask,admin\n"
    )
    async with (
        fake_server() as near,
        fake_server() as far,
        serving(LANES.format(near=near.url, far=far.url), keys_file=tmp_path / "keys") as gateway,
    ):
        status, headers, _ = await gateway.ask(authorization="Bearer a")
        assert (status, headers["x-twolane-target"], len(far.bodies)) == (200, "near", 0)
        url, own = f"{gateway.admin_url}/admin", {"authorization": "Bearer o"}
        async with gateway.client.get(f"{url}/decisions/{headers['x-request-id']}", headers=own) as answer:
            decision = await answer.json()
        assert (decision["locations"], decision["attempts"][0]["location"]) == (["eu"], "eu")
        body = {"model": "auto", "messages": USER}
        own["x-twolane-locations"] = "us"
        async with gateway.client.post(f"{url}/explain", json=body, headers=own) as answer:
            explained = await answer.json()
        assert explained["locations"] == ["us"]
        assert [(each["target"], each["location"]) for each in explained["candidates"]] == [("far", "us")]
        status, _, body = await gateway.ask(authorization="Bearer a", x_twolane_locations="us")
        assert (status, body["error"]["code"]) == (503, "no_target_in_location")
        assert "x-twolane-locations: us; the API key: eu" in body["error"]["message"]
