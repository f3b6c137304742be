"""A stream that is passed on by what reads it has the limits and faults of one that is read. In virtual time."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from gateway.attempts.pushing import push_deltas
from gateway.attempts.read_limits import Expired, ReadLimits
from gateway.errors import UpstreamError
from gateway.simulation.virtual_time import run_virtual
from gateway.types import Delta, Query
from gateway.upstreams.http import HttpReply
from gateway.upstreams.http_client.client import HungUp
from gateway.upstreams.http_client.limits import ClientLimits
from gateway.upstreams.http_client.response import PooledResponse

PING = b": ping\n\n"
DONE = b"data: [DONE]\n\n"
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":7}}\n\n'


def event(text: str, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return b"data: %b\n\n" % json.dumps({"choices": [choice]}).encode()


class Source:
    """A connection."""

    limits = ClientLimits()

    def abort(self) -> None: ...
    def resume_reading(self) -> None: ...


class Stream:
    """A response in progress, what is passed on of it, and what must be read."""

    def __init__(self, query: Query) -> None:
        self.response = PooledResponse(Source(), 200, {}, 1 << 20)
        self.reply = HttpReply(self.response, query)
        self.observed: list[Delta] = []
        self.sent = ""
        self.send: Callable[[list[Delta]], bool] = self._send
        self.most = 1000  # deltas to send at once

    def arrive(self, *parts: bytes) -> None:
        for part in parts:
            if not self.response.feed_sink(part):
                self.response.feed(part)
                self.response.wake()

    async def push(self, limits: ReadLimits | None = None) -> None:
        def late() -> UpstreamError:
            return UpstreamError("late")

        await push_deltas(self.reply, limits or ReadLimits(1000), self.observed.append, self._call, time_out=late)

    async def pushing(self) -> asyncio.Task[None]:
        """A task that pushes, and waits."""
        task = asyncio.create_task(self.push())
        await asyncio.sleep(0.01)
        return task

    async def read(self) -> str:
        delta = await anext(self.reply)
        return "".join(piece.text for piece in delta.pieces)

    def _call(self, found: list[Delta]) -> bool:
        return self.send(found)

    def _send(self, found: list[Delta]) -> bool:
        self.sent += "".join(piece.text for delta in found for piece in delta.pieces)
        self.most -= len(found)
        return self.most > 0


@pytest.fixture
def play(query: Callable[..., Query]) -> Callable[[Callable[[Stream], Coroutine[Any, Any, None]]], None]:
    """Run a story about a stream whose first delta was read."""

    def run(story: Callable[[Stream], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            stream = Stream(query(stream=True))
            stream.arrive(event("0"))
            assert await stream.read() == "0"
            await story(stream)

        run_virtual(main())

    return run


def test_each_read_starts_the_pause_anew_heartbeats_included(play: Any) -> None:
    async def story(stream: Stream) -> None:
        limits, loop = ReadLimits(1000), asyncio.get_running_loop()
        limits.limit_pauses(2.0)
        for at_s in range(1, 11):
            loop.call_later(1.5 * at_s, stream.arrive, event(str(at_s)) if at_s % 2 else PING)
        began_s = loop.time()
        with pytest.raises(UpstreamError, match="late"):
            await stream.push(limits)
        assert loop.time() - began_s == pytest.approx(17.0)
        assert limits.expired is Expired.IDLE
        assert stream.sent == "13579"
        assert len(stream.observed) == 5

    play(story)


def test_a_stream_ends_with_its_total_time_though_it_brings_more(play: Any) -> None:
    async def story(stream: Stream) -> None:
        limits, loop = ReadLimits(5.2), asyncio.get_running_loop()
        for at_s in range(1, 11):
            loop.call_later(at_s, stream.arrive, event("x"))
        with pytest.raises(UpstreamError, match="late"):
            await stream.push(limits)
        assert limits.expired is Expired.UNTIL
        await asyncio.sleep(100)
        assert stream.sent == "xxxxx"  # what arrives later is not passed on behind the error

    play(story)


def test_a_complete_answer_is_waited_out_until_its_end_or_for_five_seconds(play: Any) -> None:
    async def story(stream: Stream) -> None:
        task, loop = await stream.pushing(), asyncio.get_running_loop()
        stream.arrive(event("1", "stop"))
        finished_s = loop.time()
        loop.call_later(4, stream.arrive, PING)
        await task
        assert loop.time() - finished_s == pytest.approx(5)
        assert stream.sent == "1"
        assert await anext(stream.reply, None) is None
        assert loop.time() - finished_s == pytest.approx(5)

    play(story)


def test_the_end_of_a_complete_answer_ends_the_pushing(play: Any) -> None:
    async def story(stream: Stream) -> None:
        task = await stream.pushing()
        stream.arrive(event("1", "stop"), DONE)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert task.done()
        stream.response.end()
        assert await anext(stream.reply, None) is None

    play(story)


def test_a_target_that_breaks_off_behind_its_answer_has_done_its_work(play: Any) -> None:
    async def story(stream: Stream) -> None:
        task = await stream.pushing()
        stream.arrive(event("1", "stop"))
        stream.response.end(HungUp("in the response"))
        await task
        assert await anext(stream.reply, None) is None

    play(story)


def test_what_follows_the_finish_reason_is_read(play: Any) -> None:
    async def story(stream: Stream) -> None:
        task = await stream.pushing()
        stream.arrive(event("1"), event("2", "stop"), USAGE, DONE)
        await task
        usage = await anext(stream.reply)
        assert (stream.sent, usage.usage and usage.usage.output_tokens) == ("12", 7)
        stream.response.end()
        assert await anext(stream.reply, None) is None

    play(story)


def test_a_client_without_room_gets_the_rest_later_and_in_order(play: Any) -> None:
    async def story(stream: Stream) -> None:
        stream.most = 2
        task = await stream.pushing()
        stream.arrive(*(event(str(number)) for number in range(1, 6)))
        await task
        assert stream.sent == "12"
        assert await stream.read() + await stream.read() + await stream.read() == "345"

    play(story)


def test_a_fault_in_what_sends_is_raised_where_the_stream_is_read(play: Any) -> None:
    async def story(stream: Stream) -> None:
        def fails(_found: list[Delta]) -> bool:
            raise ZeroDivisionError

        stream.send = fails
        task = await stream.pushing()
        stream.arrive(event("1"), event("2"))
        await task
        with pytest.raises(ZeroDivisionError):
            await stream.read()

    play(story)


@pytest.mark.parametrize(
    ("broken", "detail"), [(b'data: {"choices":[{\n\n', "malformed"), (HungUp("gone"), "HungUp"), (None, "cut short")]
)
def test_a_fault_of_the_target_is_raised_behind_what_was_sent(play: Any, broken: Any, detail: str) -> None:
    async def story(stream: Stream) -> None:
        task = await stream.pushing()
        stream.arrive(event("1"))
        if isinstance(broken, bytes):
            stream.arrive(broken)
        else:
            stream.response.end(broken)
        await task
        assert stream.sent == "1"
        with pytest.raises(UpstreamError) as raised:
            await stream.read()
        assert detail in raised.value.log_detail

    play(story)


def test_nothing_is_sent_after_a_cancellation(play: Any) -> None:
    async def story(stream: Stream) -> None:
        task = await stream.pushing()
        task.cancel()
        await asyncio.wait([task])
        stream.arrive(event("1"))
        assert stream.sent == ""
        assert await stream.read() == "1"

    play(story)
