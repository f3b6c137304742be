"""Heartbeats: comments on a stream that would be silent. In virtual time, through the whole chat route."""

import asyncio
from typing import Any

import orjson
import pytest

from gateway.beyond_chat import CHAT_PATH, MESSAGES_PATH
from gateway.enums import Outcome
from gateway.errors import Refused, UpstreamError
from gateway.simulation.virtual_time import run_virtual
from gateway.upstreams.scripted import fails, says
from gateway.web.chat import GenerationApis
from gateway.web.error_body import body_of
from gateway.web.event_stream import EventStream
from tests.gateway.web.asgi_client import AsgiClient

PING = b": ping\n\n"
DONE = b"data: [DONE]\n\n"
CHAT = {"model": "auto", "messages": [{"role": "user", "content": "hello"}], "stream": True}
OBJECT = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}


def route_of(scene: Any, heartbeat_s: float) -> GenerationApis:
    return GenerationApis(scene.pipeline, scene.clock, heartbeat_s=heartbeat_s)


@pytest.fixture(name="ask")
def make_ask(play: Any) -> Any:
    """Send one request to scripted targets: `ask(fast=says(...), quality=..., body={...})`."""

    def ask(
        *, body: Any = None, heartbeat_s: float = 15.0, write_s: float = 0.0, path: str = CHAT_PATH, **given: Any
    ) -> Any:
        async def story(scene: Any) -> Any:
            client = AsgiClient(route_of(scene, heartbeat_s), write_s=write_s, path=path)
            return await client.post({**CHAT, **(body or {})}), scene

        return play(story, **given)

    return ask


def events_of(body: bytes) -> list[Any]:
    """The JSON of the events, as a client reads them."""
    data = [line[6:] for line in body.split(b"\n") if line.startswith(b"data: ") and line != b"data: [DONE]"]
    return [orjson.loads(each) for each in data]


def text_of(body: bytes) -> str:
    return "".join(choice["delta"].get("content", "") for each in events_of(body) for choice in each["choices"])


def test_a_quick_stream_has_no_comment(ask: Any) -> None:
    received, _ = ask(fast=says("a", "b", between_s=14))
    assert b":" not in received.body.replace(b'":', b"").replace(b"data:", b"").replace(b'{"', b"")
    assert (text_of(received.body), received.body.endswith(DONE)) == ("ab", True)


def test_silence_before_the_first_byte_is_filled_from_15_s_on(ask: Any) -> None:
    received, _ = ask(fast=says("late", before_s=50))
    assert [(at_s, part) for at_s, part in received.parts if part == PING] == [(15, PING), (30, PING), (45, PING)]
    assert (received.status, received.head_s) == (200, 15)
    assert text_of(received.body) == "late"


def test_the_time_until_a_heartbeat_is_a_setting(ask: Any) -> None:
    received, _ = ask(fast=says("late", before_s=8), heartbeat_s=3)
    assert [at_s for at_s, part in received.parts if part == PING] == [3, 6]
    received, _ = ask(fast=says("late", before_s=500), heartbeat_s=0)
    assert PING not in received.body


def test_gaps_between_chunks_are_filled(ask: Any) -> None:
    received, _ = ask(fast=says("a", "b", between_s=40))
    assert [at_s for at_s, part in received.parts if part == PING] == pytest.approx([15, 30, 55, 70, 95, 110, 135, 150])


def test_a_buffered_answer_is_accompanied_and_its_target_may_still_change(ask: Any) -> None:
    """The head has been sent, the answer has not: an invalid answer falls back."""
    wrong, right = says("pro", "se", between_s=10), says("{", "}", between_s=10)
    received, scene = ask(fast=wrong, quality=right, body={"response_format": OBJECT})
    assert received.parts[0] == (15, PING)
    assert text_of(received.body) == "{}"
    assert scene.attempts == {"fast": "invalid_output", "quality": "ok"}
    assert received.comments["x-twolane-attempts"] == "fast=invalid_output,quality=ok"


def test_the_head_of_a_heartbeat_has_what_is_known_and_one_comment_at_the_end_the_rest(ask: Any) -> None:
    received, scene = ask(fast=fails(before_s=20), quality=says("{}", before_s=20), body={"response_format": OBJECT})
    assert {"x-request-id", "x-twolane-task", "x-twolane-route", "x-twolane-policy"} <= received.header.keys()
    late = {"x-twolane-target": "quality", "x-twolane-fallback": "upstream_error", "x-twolane-schema": "valid"}
    assert not (late.keys() | {"x-twolane-attempts", "server-timing"}) & received.header.keys()
    assert late.items() <= received.comments.items()
    assert not received.comments.keys() & received.header.keys()
    *_, comment, done = received.body.split(b"\n\n")[:-1]
    assert done == b"data: [DONE]"
    assert all(line.startswith(b": ") for line in comment.split(b"\n"))
    assert scene.decision.target == "quality"


def test_a_stream_that_began_with_an_answer_has_no_comment_of_headers(ask: Any) -> None:
    received, _ = ask(fast=says("a", "b", between_s=14))
    assert received.header["x-twolane-target"] == "fast"
    assert received.comments == {}


def test_an_error_after_a_heartbeat_is_an_event_with_the_body_of_the_http_error(ask: Any) -> None:
    error = Refused("'x' is unknown.", code="unknown_parameter", param="x")
    received, scene = ask(fast=fails(before_s=20), quality=fails(error, before_s=20))
    assert received.status == 200
    last = received.parts[-1][1]
    whole, _ = ask(fast=fails(), quality=fails(error))
    assert last.endswith(b"event: error\ndata: " + whole.body + b"\n\n")
    assert received.comments["x-should-retry"] == whole.header["x-should-retry"]
    assert DONE not in received.body
    assert scene.decision.outcome is Outcome.ERROR


def test_an_error_before_any_heartbeat_has_its_own_status(ask: Any) -> None:
    received, _ = ask(fast=fails(Refused("no", code="nope"), before_s=10))
    assert (received.status, received.body) == (400, body_of(Refused("no", code="nope")))


def test_a_deadline_that_passes_after_heartbeats_is_an_event(ask: Any) -> None:
    received, _ = ask(fast=says("x", before_s=900), route={"deadline_ms": 50_000})
    assert received.body.count(PING) == 3
    assert events_of(received.body)[-1]["error"]["code"] == "deadline_exceeded"
    assert received.comments["x-twolane-attempts"] == "fast=deadline"


def test_a_failure_in_mid_stream_after_a_heartbeat_ends_with_an_event(ask: Any) -> None:
    received, _ = ask(fast=fails(UpstreamError("gone"), "half", before_s=20))
    assert text_of(received.body.split(b"event: error")[0]) == "half"
    assert events_of(received.body)[-1]["error"]["code"] == "upstream_error"


def test_an_answer_that_is_not_streamed_has_no_heartbeat(ask: Any) -> None:
    received, _ = ask(fast=says("late", before_s=100), body={"stream": False})
    assert (received.status, len(received.parts)) == (200, 1)


@pytest.mark.parametrize("write_s", [10, 40])
def test_a_client_that_reads_slowly_gets_whole_events_in_order(ask: Any, write_s: float) -> None:
    received, _ = ask(fast=says(*"abc", between_s=20), write_s=write_s)
    assert text_of(received.body) == "abc"
    assert received.body.endswith(DONE)
    assert all(part.endswith(b"\n\n") for _, part in received.parts)


def test_a_client_that_leaves_after_a_heartbeat_ends_the_call(play: Any) -> None:
    async def story(scene: Any) -> Any:
        client = AsgiClient(route_of(scene, 15))
        task = asyncio.create_task(client.post(CHAT))
        await asyncio.sleep(20)
        client.leave()
        return await task, scene

    received, scene = play(story, fast=says("late", before_s=100))
    assert (received.body, received.is_complete) == (PING, False)
    assert scene.decision.outcome is Outcome.CLIENT_GONE
    assert scene.targets["fast"].left == 1


def test_the_openai_client_reads_a_stream_with_comments(ask: Any) -> None:
    """Its own parser of events, on the bytes of a stream with heartbeats before, within and after the answer."""
    streaming = pytest.importorskip("openai._streaming")
    received, _ = ask(fast=fails(before_s=20), quality=says("a", "b", before_s=20, between_s=20))
    assert received.body.count(PING) > 3
    read = list(streaming.SSEDecoder().iter_bytes(iter([received.body])))
    assert [each.data for each in read][-1] == "[DONE]"
    assert len(read) == len(events_of(received.body)) + 1


def test_a_stream_of_messages_has_anthropic_s_pings_once_it_has_begun(ask: Any) -> None:
    """Before its first event, a ping would be out of order for some clients."""
    typed = b'event: ping\ndata: {"type": "ping"}\n\n'
    received, _ = ask(fast=says("a", "b", before_s=20, between_s=40), path=MESSAGES_PATH, body={"max_tokens": 9})
    parts = [part for _, part in received.parts]
    begun = next(number for number, part in enumerate(parts) if b"message_start" in part)
    assert (PING in parts[:begun], typed in parts[:begun]) == (True, False)
    assert (PING in parts[begun:], typed in parts[begun:]) == (False, True)
    assert events_of(received.body)[-1] == {"type": "message_stop"}


def test_an_error_behind_a_heartbeat_is_anthropic_s_event(ask: Any) -> None:
    received, _ = ask(
        fast=fails(UpstreamError("m"), before_s=20),
        quality=fails(UpstreamError("m")),
        path=MESSAGES_PATH,
        body={"max_tokens": 9},
    )
    assert received.status == 200
    (event,) = events_of(received.body)
    assert (event["type"], event["error"]["type"]) == ("error", "api_error")
    assert b"event: error\n" in received.body
    assert dict(received.headers)[b"request-id"].decode() == event["request_id"]


def test_chunks_that_are_relayed_postpone_the_next_heartbeat() -> None:
    async def main() -> list[tuple[float, bytes]]:
        client, loop = RelayClient(), asyncio.get_running_loop()
        stream = EventStream(client, list, heartbeat_s=15)
        stream.start()
        await stream.write(b"first")
        relay = stream.relay()
        assert relay is not None
        for _ in range(3):
            await asyncio.sleep(10)
            assert relay(b"chunk", loop.time())
        await asyncio.sleep(20)
        await stream.aclose()
        return client.sent

    assert run_virtual(main()) == [(0, b"first"), (10, b"chunk"), (20, b"chunk"), (30, b"chunk"), (45, PING)]


class RelayClient:
    """A send over a connection that takes chunks at once."""

    def __init__(self) -> None:
        self.sent: list[tuple[float, bytes]] = []
        self._began_s = asyncio.get_running_loop().time()

    async def __call__(self, message: Any) -> None:
        if message["type"] == "http.response.body":
            self.relay(message["body"])

    def relay(self, chunks: bytes) -> bool:
        self.sent.append((asyncio.get_running_loop().time() - self._began_s, chunks))
        return True
