"""The console's live events: decisions as they are made, and the lanes once a second, as server-sent events."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from gateway.web.console.documents import COLUMNS
from gateway.web.console.history import MAX_ROWS, History
from gateway.web.console.lanes import LaneWatch

EVERY_S: Final = 1.0
MAX_PAGES: Final = 20  # open at a time
_FOR_LATENCIES: Final = 2000  # decisions


@dataclass(slots=True, kw_only=True)
class LiveFeed:
    """`version` of the running policy. All pages receive the same events, which are made once."""

    history: History
    lanes: LaneWatch
    version: Callable[[], str]
    instance: str = field(default_factory=lambda: secrets.token_hex(8))
    pages: int = 0
    has_ended: bool = False
    _made_s: float = -1.0
    _lanes: bytes = b""

    def end(self) -> None:
        """The gateway stops: end all streams, so that they do not delay it."""
        self.has_ended = True

    async def listing(self) -> dict[str, Any]:
        """The latest decisions as rows of `columns`, oldest first, and whose they are."""
        history = self.history
        await history.refresh()
        rows, count = await history.rows(MAX_ROWS), history.count
        scope, capacity = history.scope, history.capacity
        known = {"instance": self._source, "columns": COLUMNS, "scope": scope, "capacity": capacity}
        return known | {"rows": rows, "count": count}

    async def events(self, after: int, instance: str, is_allowed: Callable[[], bool]) -> AsyncIterator[bytes]:
        """Events until the client disconnects or is no longer allowed. `after`: the number of decisions that the page
        has from `instance`. A page of another process, or of one before a restart, gets a new listing; so do all when
        Redis stops or begins to respond, since other decisions are listed then."""
        self.pages += 1
        try:
            yield _event("hello", orjson.dumps({"instance": self.instance, "policy": self.version()}))
            seen, known = after, instance
            while not self.has_ended and is_allowed():
                await self.history.refresh()
                if known != self._source or not 0 <= seen <= self.history.count:
                    listing = await self.listing()
                    seen, known = listing["count"], listing["instance"]
                    yield _event("listing", orjson.dumps(listing))
                fresh, seen = await self.history.rows_after(seen)
                if fresh:
                    yield _event("decisions", orjson.dumps({"rows": fresh, "count": seen}))
                yield _event("lanes", self._lanes_now())
                await self._pause()
        finally:
            self.pages -= 1

    @property
    def _source(self) -> str:
        """Of the counts: this process and replicas count different decisions."""
        return f"{self.instance}.{self.history.scope}"

    async def _pause(self) -> None:
        """A second, or less if the gateway stops."""
        for _ in range(10):
            if self.has_ended:
                return
            await asyncio.sleep(EVERY_S / 10)

    def _lanes_now(self) -> bytes:
        now_s = self.lanes.clock.now_s()
        if now_s - self._made_s >= EVERY_S / 2:
            self._made_s = now_s
            document: dict[str, Any] = self.lanes.document(self.history.decisions(_FOR_LATENCIES)) | {
                "policy": self.version()
            }
            self._lanes = orjson.dumps(document)
        return self._lanes


def _event(name: str, data: bytes) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"
