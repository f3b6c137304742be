"""What one read of a stream brings is passed on at once."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.errors import InvalidOutput
from gateway.types import Delta
from gateway.upstreams.scripted import ScriptedReply, says
from tests.gateway.test_checks import FIRST, GOOD, LATE, LONG, SCHEMA

pytestmark = pytest.mark.anyio


class Burst:
    """Deltas that have all arrived when the second is read."""

    def __init__(self, deltas: AsyncIterator[Delta]) -> None:
        self._deltas = deltas
        self._found: list[Delta] = []
        self._count = 0

    def __aiter__(self) -> "Burst":
        return self

    async def __anext__(self) -> Delta:
        self._count += 1
        if self._count == 2:
            self._found = [delta async for delta in self._deltas]
        return self._found.pop(0) if self._found else await anext(self._deltas)

    def arrived(self) -> list[Delta]:
        found, self._found = self._found, []
        return found

    async def aclose(self) -> None: ...


@pytest.fixture(autouse=True)
def _in_bursts(monkeypatch: pytest.MonkeyPatch) -> None:
    one_by_one = ScriptedReply.deltas
    monkeypatch.setattr(ScriptedReply, "deltas", lambda self: Burst(one_by_one(self)))


def texts(deltas: list[Delta]) -> list[str]:
    return [piece.text for delta in deltas for piece in delta.pieces]


async def test_all_deltas_that_have_arrived_are_passed_on_together(stage: Any) -> None:
    scene = stage(fast=says(*LONG), quality=GOOD, route=FIRST)
    answer = await scene.pipeline.handle(scene.query(stream=True, response_format=SCHEMA))
    assert texts(answer.buffered()) == [LONG[0]]
    assert texts(await answer.more()) == [*LONG[1:], ""]
    assert await answer.more() == []
    await answer.aclose()
    assert scene.attempts == {"fast": "ok"}


async def test_deltas_before_an_invalid_one_are_passed_on_before_the_fault(stage: Any) -> None:
    scene = stage(fast=says(*LATE), quality=GOOD, route=FIRST)
    answer = await scene.pipeline.handle(scene.query(stream=True, response_format=SCHEMA))
    assert texts(answer.buffered()) == [LATE[0]]
    assert texts(await answer.more()) == [LATE[1]]
    with pytest.raises(InvalidOutput):
        await answer.more()
    await answer.aclose()
    assert scene.attempts == {"fast": "invalid_output"}
