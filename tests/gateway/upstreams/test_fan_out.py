"""n choices from a target that gives one per call."""

import asyncio
from dataclasses import replace
from typing import Any

import orjson
import pytest

from gateway.enums import Capability, Kind, Location
from gateway.errors import Overloaded, UpstreamError
from gateway.types import Call, Capabilities, Query, Target
from gateway.upstreams.fan_out import MAX_AT_ONCE, needs_fan_out, send_each
from gateway.upstreams.request_body import body_for
from gateway.upstreams.scripted import ScriptedUpstream, fails, says

pytestmark = pytest.mark.anyio
ONE_CHOICE = Capabilities(supported=frozenset({Capability.CHAT, Capability.SEED}))
TARGET = Target(
    name="t", kind=Kind.WORKER, url="http://t", model="m", location=Location.IN_CLUSTER, capabilities=ONE_CHOICE
)


def call_of(n: int, **body: Any) -> Call:
    document = {"model": "auto", "messages": [{"role": "user", "content": "hi"}], "n": n, **body}
    query = Query(
        request_id="r", model="auto", body=orjson.dumps(document), received_s=0, stream=bool(body.get("stream")), n=n
    )
    return Call(target=TARGET, query=query)


async def read(upstream: ScriptedUpstream, call: Call) -> list[dict[str, Any]]:
    response = await send_each(upstream, call)
    try:
        return [orjson.loads(delta.data) async for delta in response.deltas()]
    finally:
        await response.aclose()


async def test_whole_responses_become_one_with_numbered_choices_and_all_usage() -> None:
    upstream = ScriptedUpstream([says("a", confidence=0.9), says("b", confidence=0.4), says("c", confidence=0.8)])
    [document] = await read(upstream, call_of(3))
    assert [choice["index"] for choice in document["choices"]] == [0, 1, 2]
    assert sorted(choice["message"]["content"] for choice in document["choices"]) == ["a", "b", "c"]
    assert document["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 3,
        "diffusion": {"confidence": 0.4, "converged": True},
    }


async def test_streams_become_one_stream_with_one_id_and_one_usage() -> None:
    upstream = ScriptedUpstream([says("a", "b"), says("c")])
    chunks = await read(upstream, call_of(2, stream=True))
    texts = {0: "", 1: ""}
    for chunk in chunks[:-1]:
        [choice] = chunk["choices"]
        texts[choice["index"]] += choice["delta"].get("content", "")
    assert sorted(texts.values()) == ["ab", "c"]
    assert {chunk["id"] for chunk in chunks} == {"scripted"}
    assert chunks[-1]["choices"] == []
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks if "usage" in chunk] == [3]
    assert sum(choice.get("finish_reason") == "stop" for chunk in chunks for choice in chunk["choices"]) == 2


def test_every_choice_is_a_call_for_one_with_a_seed_of_its_own() -> None:
    call = call_of(3, seed=5)
    sent = [orjson.loads(body_for(replace(call, choice=choice), ONE_CHOICE)) for choice in range(3)]
    assert [(body.get("n"), body["seed"]) for body in sent] == [(None, 5), (None, 6), (None, 7)]


def test_it_is_used_only_for_several_choices_at_targets_without_n() -> None:
    upstream, several = ScriptedUpstream([says("a")]), call_of(2)
    able = replace(TARGET, capabilities=replace(ONE_CHOICE, supported=ONE_CHOICE.supported | {Capability.N}))
    assert needs_fan_out(upstream, several)
    assert not needs_fan_out(upstream, call_of(1))
    assert not needs_fan_out(upstream, replace(several, target=able))
    assert not needs_fan_out(upstream, replace(several, ignored=("n",)))


async def test_calls_are_limited_and_closed_when_the_response_is() -> None:
    waiting = asyncio.Event()
    upstream = ScriptedUpstream([says("a")], sleep=lambda _: waiting.wait())
    opening = asyncio.create_task(send_each(upstream, call_of(MAX_AT_ONCE + 3)))
    while len(upstream.calls) < MAX_AT_ONCE:  # noqa: ASYNC110 - the fake has no event for it
        await asyncio.sleep(0)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(upstream.calls) == MAX_AT_ONCE
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert upstream.left == MAX_AT_ONCE


async def test_a_reader_that_leaves_closes_every_call() -> None:
    """Also those that wait because nobody reads what they bring."""
    upstream = ScriptedUpstream([says(*"abcdefgh")])
    response = await send_each(upstream, call_of(4, stream=True))
    assert await anext(response.deltas())
    await response.aclose()
    assert upstream.left == 4


async def test_the_first_error_is_raised_at_once_and_cancels_the_others() -> None:
    with pytest.raises(Overloaded):
        await read(ScriptedUpstream([fails(Overloaded("busy"))]), call_of(3))
    upstream = ScriptedUpstream([says("a", between_s=1), fails(UpstreamError("broken"), "b")], sleep=_hold)
    with pytest.raises(UpstreamError):
        await read(upstream, call_of(2, stream=True))
    assert upstream.left == 1, "the other one"


async def _hold(seconds: float) -> None:
    """A response that takes time never ends here."""
    await (asyncio.Event().wait() if seconds else asyncio.sleep(0))
