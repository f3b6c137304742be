"""Text that is relayed as it came has the order, the limits and the faults of a stream that is read."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from gateway.attempts.pushing import push_deltas
from gateway.attempts.read_limits import ReadLimits
from gateway.errors import UpstreamError
from gateway.types import Delta, Query
from gateway.upstreams.http import HttpReply
from gateway.upstreams.http_client.response import PooledResponse
from tests.gateway.attempts.test_pushing import DONE, PING, USAGE, Source, event
from twolane.process.http import compiled

pytestmark = pytest.mark.skipif(not compiled.IS_BUILT, reason="the compiled readers are not built")


class Stream:
    """A response whose first text, `0`, was read. `relayed`, `pushed`: chunks and texts that were passed on since."""

    def __init__(self, query: Query, limit: int = 1 << 20) -> None:
        self.response = PooledResponse(Source(), 200, {}, limit)
        self.reply = HttpReply(self.response, query)
        self.relayed: list[bytes] = []
        self.pushed: list[str] = []
        self.characters = 0
        self.has_room: Callable[[], bool] = lambda: True

    def arrive(self, *reads: bytes) -> None:
        """Each a chunk, in a read of its own."""
        for data in reads:
            if not self.response.feed_text(chunk(data)) and not self.response.feed_sink(data):
                self.response.feed(data)
                self.response.wake()

    async def pushing(self) -> asyncio.Task[None]:
        """A task that pushes, and waits."""
        limits = ReadLimits(1000)
        pushing = push_deltas(
            self.reply, limits, lambda _: None, self._push, self._relay, time_out=lambda: UpstreamError("late")
        )
        task = asyncio.create_task(pushing)
        await asyncio.sleep(0.01)
        return task

    async def read(self) -> str:
        return text_of(await anext(self.reply))

    def _push(self, found: list[Delta]) -> bool:
        self.pushed += [text_of(delta) for delta in found]
        return self.has_room()

    def _relay(self, chunks: bytes, characters: int) -> bool:
        self.relayed.append(chunks)
        self.characters += characters
        return self.has_room()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def text_of(delta: Delta) -> str:
    return "".join(piece.text for piece in delta.pieces)


Story = Callable[[Stream], Coroutine[Any, Any, None]]


@pytest.fixture
def play(query: Callable[..., Query]) -> Callable[..., None]:
    def run(story: Story, *, limit: int = 1 << 20, n: int = 1) -> None:
        async def main() -> None:
            stream = Stream(query(stream=True, n=n), limit)
            stream.arrive(event("0"))
            assert await stream.read() == "0"
            await story(stream)

        asyncio.run(main())

    return run


def test_text_is_relayed_as_it_came_and_everything_else_is_read(play: Any) -> None:
    async def story(stream: Stream) -> None:
        task = await stream.pushing()
        stream.arrive(event("ab"), PING, event("é"), event(""), event("c", "stop"), USAGE, DONE)
        await task
        assert stream.relayed == [chunk(event("ab")), chunk(event("é"))]
        assert stream.characters == 3
        assert stream.pushed == ["", "c"]
        usage = await anext(stream.reply)
        assert usage.usage is not None

    play(story)


def test_several_chunks_of_one_read_are_relayed_together(play: Any) -> None:
    async def story(stream: Stream) -> None:
        task = await stream.pushing()
        both = chunk(event("ab")) + chunk(event("c"))
        assert stream.response.feed_text(both)
        assert (stream.relayed, stream.characters) == ([both], 3)
        task.cancel()

    play(story)


def test_a_client_without_room_gets_the_rest_later_and_in_order(play: Any) -> None:
    async def story(stream: Stream) -> None:
        stream.has_room = lambda: False
        task = await stream.pushing()
        stream.arrive(event("1"), event("2"), event("3"))
        await task
        assert stream.relayed == [chunk(event("1"))]
        assert [await stream.read(), await stream.read()] == ["2", "3"]

    play(story)


def test_text_behind_a_part_of_an_event_is_read_with_it(play: Any) -> None:
    async def story(stream: Stream) -> None:
        task = await stream.pushing()
        stream.arrive(b": begins a comment ", event("1"), event("2"))
        assert stream.relayed == [chunk(event("2"))]
        task.cancel()

    play(story)


def test_the_first_text_of_a_choice_is_read(play: Any) -> None:
    async def story(stream: Stream) -> None:
        task = await stream.pushing()
        other = event("1").replace(b'"index": 0', b'"index": 1')
        stream.arrive(other, other, event("2"))
        assert stream.pushed == ["1"]
        assert stream.relayed == [chunk(other), chunk(event("2"))]
        task.cancel()

    play(story, n=2)


def test_text_that_is_relayed_counts_towards_the_limit_of_the_body(play: Any) -> None:
    async def story(stream: Stream) -> None:
        task = await stream.pushing()
        stream.arrive(event("1"))
        assert not stream.response.feed_text(chunk(event("2")))
        task.cancel()

    play(story, limit=int(len(event("1")) * 2.5))


def test_a_fault_in_what_relays_is_raised_where_the_stream_is_read(play: Any) -> None:
    async def story(stream: Stream) -> None:
        stream.has_room = lambda: bool(1 / 0)
        task = await stream.pushing()
        stream.arrive(event("1"), event("2"))
        await task
        with pytest.raises(ZeroDivisionError):
            await stream.read()

    play(story)


def test_nothing_is_relayed_after_a_cancellation(play: Any) -> None:
    async def story(stream: Stream) -> None:
        task = await stream.pushing()
        task.cancel()
        await asyncio.wait([task])
        stream.arrive(event("1"))
        assert stream.relayed == []
        assert await stream.read() == "1"

    play(story)
