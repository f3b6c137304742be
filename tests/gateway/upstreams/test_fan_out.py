"""n choices from a target that gives one per call."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import orjson
import pytest

from gateway.enums import Capability, Kind
from gateway.errors import NotConnected, Overloaded, UpstreamError
from gateway.parameters import MAX_N
from gateway.types import Call, Capabilities, Delta, Piece, Query, Target
from gateway.upstreams import fan_out
from gateway.upstreams.errors import from_response
from gateway.upstreams.fan_out import MAX_AT_ONCE, FanOutResponse, _added, http_status, needs_fan_out
from gateway.upstreams.parse_response import read_delta
from gateway.upstreams.request_body import body_for
from gateway.upstreams.scripted import ScriptedUpstream, fails, says

pytestmark = pytest.mark.anyio
ONE_CHOICE = Capabilities(supported=frozenset({Capability.CHAT, Capability.SEED}))
TARGET = Target(name="t", kind=Kind.WORKER, url="http://t", model="m", location="in_cluster", capabilities=ONE_CHOICE)


def call_of(n: int, **body: Any) -> Call:
    document = {"model": "auto", "messages": [{"role": "user", "content": "hi"}], "n": n, **body}
    query = Query(
        request_id="r", model="auto", body=orjson.dumps(document), received_s=0, stream=bool(body.get("stream")), n=n
    )
    return Call(target=TARGET, query=query)


async def read(upstream: ScriptedUpstream, call: Call) -> list[dict[str, Any]]:
    response = FanOutResponse(upstream, call)
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


def test_thresholds_and_rates_of_several_choices_are_not_added_up() -> None:
    """The loosest thresholds, at the highest load, and tokens over the passes of all choices."""
    first = {"forward_passes": 2, "tokens_per_forward": 10.0, "load": 0.5, "thresholds": {"confidence_threshold": 0.3}}
    second = {"forward_passes": 6, "tokens_per_forward": 2.0}
    third = {
        "forward_passes": 2,
        "tokens_per_forward": 4.0,
        "load": 1.0,
        "thresholds": {"confidence_threshold": 0.5, "entropy_bound": 2.0, "stability": 0},
    }
    assert _added({"diffusion": each} for each in (first, second, third))["diffusion"] == {
        "forward_passes": 10,
        "tokens_per_forward": 4.0,
        "load": 1.0,
        "thresholds": {"confidence_threshold": 0.5, "entropy_bound": 2.0, "stability": 0},
    }


def test_a_rate_is_unknown_where_a_choice_does_not_state_its_passes() -> None:
    stating, silent = {"forward_passes": 2, "tokens_per_forward": 10.0}, {"tokens_per_forward": 4.0}
    for order in ([stating, silent, stating], [silent, stating], [silent, silent]):
        assert "tokens_per_forward" not in _added(order)
    assert _added([silent]) == silent, "a single choice keeps its own"


@pytest.mark.parametrize("stream", [False, True])
async def test_as_many_choices_as_openai_allows_are_served(stream: bool) -> None:
    found = await read(ScriptedUpstream([says("a")]), call_of(MAX_N, stream=stream))
    texts = {each["index"] for chunk in found for each in chunk["choices"] if each.get("delta", each.get("message"))}
    assert texts == set(range(MAX_N))
    assert found[-1]["usage"]["completion_tokens"] == MAX_N


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


def test_seeds_of_choices_differ_and_stay_integers_of_64_bits() -> None:
    call = call_of(3, seed=2**63 - 2)
    seeds = {orjson.loads(body_for(replace(call, choice=choice), ONE_CHOICE))["seed"] for choice in range(3)}
    assert len(seeds) == 3
    assert max(seeds) < 2**63


def test_it_is_used_only_for_several_choices_at_targets_without_n() -> None:
    upstream, several = ScriptedUpstream([says("a")]), call_of(2)
    able = replace(TARGET, capabilities=replace(ONE_CHOICE, supported=ONE_CHOICE.supported | {Capability.N}))
    assert needs_fan_out(upstream, several)
    assert not needs_fan_out(upstream, call_of(1))
    assert not needs_fan_out(upstream, replace(several, target=able))
    assert not needs_fan_out(upstream, replace(several, ignored=("n",)))
    takes = replace(TARGET, capabilities=replace(ONE_CHOICE, fields=frozenset({"n"})))
    assert not needs_fan_out(upstream, replace(several, target=takes))


async def test_calls_are_limited_and_closed_when_the_response_is() -> None:
    waiting = asyncio.Event()
    upstream = ScriptedUpstream([says("a")], sleep=lambda _: waiting.wait())
    response = FanOutResponse(upstream, call_of(MAX_AT_ONCE + 3))
    while len(upstream.calls) < MAX_AT_ONCE:  # noqa: ASYNC110 - the fake has no event for it
        await asyncio.sleep(0)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(upstream.calls) == MAX_AT_ONCE
    await response.aclose()
    assert upstream.left == MAX_AT_ONCE


async def test_a_reader_that_leaves_closes_every_call() -> None:
    """Also those that wait because nobody reads what they bring."""
    upstream = ScriptedUpstream([says(*"abcdefgh")])
    response = FanOutResponse(upstream, call_of(4, stream=True))
    assert await anext(response.deltas())
    await response.aclose()
    assert upstream.left == 4
    assert [(call.choice, call.query.n) for call in upstream.calls] == [(choice, 1) for choice in range(4)]


async def test_the_first_error_is_raised_at_once_and_cancels_the_others() -> None:
    with pytest.raises(Overloaded):
        await read(ScriptedUpstream([fails(Overloaded("busy"))]), call_of(3))
    upstream = ScriptedUpstream([says("a", between_s=1), fails(UpstreamError("broken"), "b")], sleep=_hold)
    with pytest.raises(UpstreamError):
        await read(upstream, call_of(2, stream=True))
    assert upstream.left == 1, "the other one"


async def test_nothing_of_a_stream_is_passed_on_before_every_first_call_has_responded() -> None:
    """The second call is refused after the first one has begun: another target can still be tried."""
    upstream = ScriptedUpstream([says(*"abc"), fails(Overloaded("busy"), before_s=1)], sleep=_late)
    response = FanOutResponse(upstream, call_of(2, stream=True))
    deltas = response.deltas()
    got = [await anext(deltas)]
    with pytest.raises(Overloaded):
        await anext(deltas)
    await response.aclose()
    assert [delta.pieces for delta in got] == [()]
    assert [delta.usage and delta.usage.output_tokens for delta in got] == [3], "what the first one has used"


async def test_closing_ends_also_if_a_call_fails_meanwhile_and_nobody_reads() -> None:
    """The queue is full, so nobody could take the error."""

    class FailsToClose(ScriptedUpstream):
        async def send(self, call: Call) -> Any:
            reply = await super().send(call)
            closes = reply.aclose

            async def aclose() -> None:
                await closes()
                raise UpstreamError("failed to close")

            reply.aclose = aclose  # type: ignore[method-assign]
            return reply

    upstream = FailsToClose([says(*"abcdefgh")])
    response = FanOutResponse(upstream, call_of(2, stream=True))
    while not response._items.full():  # noqa: ASYNC110 - the fake has no event for it
        await asyncio.sleep(0)
    async with asyncio.timeout(60):
        await response.aclose()
    assert upstream.left == 2


class Plays(ScriptedUpstream):
    """Answers the call for each choice with documents, as they are."""

    def __init__(self, *choices: list[Any]) -> None:
        super().__init__([says("")])
        self._choices = choices

    async def send(self, call: Call) -> Any:
        reply = await super().send(call)
        assert call.choice is not None
        documents = self._choices[call.choice]

        async def deltas() -> AsyncIterator[Delta]:
            for document in documents:
                data = document if isinstance(document, bytes) else orjson.dumps(document)
                yield read_delta(data, is_chunk=call.query.stream)

        reply.deltas = deltas
        return reply


def whole_of(text: str, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": {"content": text}, "finish_reason": "stop"}], **more}


@pytest.mark.parametrize("usage", [[1], "x", 7, True, {"prompt_tokens": "3", "x": {"y": [1]}}, {"x": {"y": None}}])
@pytest.mark.parametrize("other", [{"prompt_tokens": 3, "x": 2.5}, {"x": {"y": 10**18}}, [], None])
async def test_usage_of_any_shape_is_added_up_as_far_as_it_can_be(usage: Any, other: Any) -> None:
    sent = whole_of("a", usage=usage), whole_of("b", usage=other)
    [document] = await read(Plays([sent[0]], [sent[1]]), call_of(2))
    assert [choice["message"]["content"] for choice in document["choices"]] == ["a", "b"]
    if isinstance(usage, dict) and other:
        assert document["usage"].keys() == usage.keys() | other.keys()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("odd", [b"1e999", b"1" * 5000])
async def test_a_response_that_cannot_be_written_again_is_a_fault_of_the_target(odd: bytes, stream: bool) -> None:
    data = orjson.dumps(whole_of("a")).replace(b'"choices"', b'"x":' + odd + b',"choices"')
    with pytest.raises(UpstreamError):
        await read(Plays([data], [data]), call_of(2, stream=stream))


async def test_integers_of_any_size_keep_their_digits() -> None:
    data = orjson.dumps(whole_of("a")).replace(b'"choices"', b'"x":' + b"9" * 40 + b',"choices"')
    response = FanOutResponse(Plays([data], [data]), call_of(2))
    [delta] = [delta async for delta in response.deltas()]
    assert b"9" * 40 in delta.data


async def test_what_is_held_of_a_stream_is_counted_until_it_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(fan_out, "keep_bytes", sizes.append)
    monkeypatch.setattr(fan_out, "forget_bytes", lambda size: sizes.append(-size))
    event = {"choices": [{"index": 0, "delta": {"content": "x" * 1000}}]}
    response = FanOutResponse(Plays([event] * 2, [event]), call_of(2, stream=True))
    got = [len(delta.data) async for delta in response.deltas()]
    assert len(got) == 3
    assert sum(size for size in sizes if size > 0) == sum(got)
    assert sum(sizes) == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_held_is_limited(monkeypatch: pytest.MonkeyPatch, stream: bool) -> None:
    monkeypatch.setattr(fan_out, "MAX_HELD_BYTES", 3000)
    event = {"choices": [{"index": 0, "delta": {"content": "x" * 1000}}]}
    upstream = Plays([event] * 9, []) if stream else Plays([whole_of("x" * 1600)], [whole_of("x" * 1600)])
    with pytest.raises(UpstreamError, match="3000 bytes"):
        await read(upstream, call_of(2, stream=stream))


async def test_what_one_call_reports_of_its_progress_is_passed_on_with_its_choice() -> None:
    class Reports(Plays):
        async def send(self, call: Call) -> Any:
            reply = await super().send(call)

            async def deltas() -> AsyncIterator[Delta]:
                yield Delta(data=b"", pieces=(Piece(index=0, text="a"),))
                yield read_delta(orjson.dumps(whole_of("a")))

            reply.deltas = deltas
            return reply

    response = FanOutResponse(Reports([], []), call_of(2))
    found = [delta async for delta in response.deltas()]
    assert sorted(piece.index for delta in found[:-1] for piece in delta.pieces) == [0, 1]
    assert [bool(delta.data) for delta in found] == [False, False, True]


async def _late(seconds: float) -> None:
    """Time passes after everything that can happen without it."""
    for _ in range(50 if seconds else 1):
        await asyncio.sleep(0)


async def _hold(seconds: float) -> None:
    """A response that takes time never ends here."""
    await (asyncio.Event().wait() if seconds else asyncio.sleep(0))


async def test_the_status_of_an_attempt_is_that_of_its_response_or_none() -> None:
    """A fan-out calls its target when it is read, so it is no response itself."""
    plain = await ScriptedUpstream([says("a")]).send(call_of(1))
    fan_out = FanOutResponse(ScriptedUpstream([says("a")]), call_of(2))
    refused, unreachable = from_response(429, {}, b""), NotConnected("no")
    broken = UpstreamError("The stream was cut short.")
    assert http_status(None, refused, has_data=False) == http_status(fan_out, refused, has_data=False) == 429
    assert http_status(None, unreachable, has_data=False) is http_status(fan_out, unreachable, has_data=False) is None
    assert http_status(plain, broken, has_data=False) == http_status(fan_out, broken, has_data=True) == 200
    assert http_status(plain, None, has_data=True) == http_status(fan_out, None, has_data=True) == 200
    await fan_out.aclose()
    await plain.aclose()
