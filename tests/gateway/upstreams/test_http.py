"""What a response over HTTP keeps in memory while it arrives is counted in the byte budget."""

from collections.abc import Callable, Iterator, Mapping

import pytest

from gateway.errors import OutOfBytes
from gateway.types import Query
from gateway.upstreams.http import HttpReply
from twolane.process.http.byte_budget import HOLDING, ByteBudget

pytestmark = pytest.mark.anyio
BUDGET = 4000
WHOLE = b'{"choices":[{"message":{"content":"%s"},"finish_reason":"stop"}]}'
CHUNK = b'data: {"choices":[{"delta":{"content":"%s"}}]}\n\n'


class Body:
    """A response whose body is one list of parts."""

    status = 200
    content_encoding = ""
    headers: Mapping[str, str] = {}

    def __init__(self, body: bytes) -> None:
        self._parts = [body[at : at + 100] for at in range(0, len(body), 100)]

    @property
    def is_complete(self) -> bool:
        return not self._parts

    def whole(self, _most: int) -> bytes | None:
        return None

    def push(self, _sink: object) -> bool:
        return False

    async def read(self) -> bytes:
        return self._parts.pop(0) if self._parts else b""

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def budget() -> Iterator[ByteBudget]:
    budget = ByteBudget(BUDGET)
    with budget.hold() as holding:
        token = HOLDING.set(holding)
        yield budget
        HOLDING.reset(token)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_whole_response_is_counted_also_where_a_stream_was_requested(
    query: Callable[..., Query], stream: bool
) -> None:
    fits, exceeds = (HttpReply(Body(WHOLE % (b"x" * size)), query(stream=stream)) for size in (500, 5000))
    assert "".join([piece.text async for delta in fits.deltas() for piece in delta.pieces]) == "x" * 500
    with pytest.raises(OutOfBytes):
        [_ async for _ in exceeds.deltas()]


async def test_a_stream_that_is_passed_on_is_not_counted(query: Callable[..., Query], budget: ByteBudget) -> None:
    reply = HttpReply(Body(CHUNK % (b"x" * 50) * 100 + b"data: [DONE]\n\n"), query(stream=True))
    assert "".join([piece.text async for delta in reply.deltas() for piece in delta.pieces]) == "x" * 5000
    assert budget.used == 0
