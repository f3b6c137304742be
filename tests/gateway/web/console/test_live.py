"""Live events of a page whose session ends, and of one whose Redis stops to respond."""

from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from gateway.web.console.live import LiveFeed

pytestmark = pytest.mark.anyio


class History:
    """See `history.History`: the replicas have decided more than this process."""

    scope = "replicas"
    capacity = 10

    @property
    def count(self) -> int:
        return 7 if self.scope == "replicas" else 2

    async def refresh(self) -> None: ...

    async def rows(self, limit: int) -> list[list[Any]]:
        return [[number] for number in range(self.count)][-limit:]

    async def rows_after(self, seen: int) -> tuple[list[list[Any]], int]:
        return (await self.rows(self.count - seen) if self.count > seen else []), self.count

    def decisions(self, limit: int) -> list[Any]:
        return []


@pytest.fixture
def feed(monkeypatch: pytest.MonkeyPatch) -> LiveFeed:
    monkeypatch.setattr("gateway.web.console.live.EVERY_S", 0.0)
    lanes: Any = SimpleNamespace(clock=SimpleNamespace(now_s=lambda: 0.0), document=lambda _: {})
    history: Any = History()
    return LiveFeed(history=history, lanes=lanes, version=lambda: "v")


def read(event: bytes) -> tuple[str, Any]:
    name, data = event.decode().rstrip().split("\n")
    return name.removeprefix("event: "), orjson.loads(data.removeprefix("data: "))


async def test_a_page_that_is_open_gets_a_new_listing_when_other_decisions_are_listed(feed: LiveFeed) -> None:
    listed = await feed.listing()
    events: Any = feed.events(listed["count"], listed["instance"], lambda: True)
    assert [read(await anext(events))[0] for _ in range(3)] == ["hello", "lanes", "lanes"]
    history: Any = feed.history
    for scope, count in (("process", 2), ("replicas", 7)):
        history.scope = scope
        name, listing = read(await anext(events))
        assert (name, listing["scope"], listing["count"], len(listing["rows"])) == ("listing", scope, count, count)
        assert [read(await anext(events))[0] for _ in range(2)] == ["lanes", "lanes"]
    await events.aclose()
    assert feed.pages == 0


async def test_events_end_with_the_session(feed: LiveFeed) -> None:
    allowed = [True, True, False]
    events = [read(event)[0] async for event in feed.events(-1, "", lambda: allowed.pop(0))]
    assert (events, feed.pages) == (["hello", "listing", "lanes", "lanes"], 0)
