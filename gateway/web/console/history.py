"""The recent decisions that the console lists: of all replicas where they share a Redis, else of this gateway."""

import asyncio
import contextlib
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Protocol

import orjson

from gateway.decision import Decision, Mirrored
from gateway.state.decision_file import DecisionFileError
from gateway.state.redis_client import RedisFaultError
from gateway.telemetry.recent_decisions import RecentDecisions
from gateway.web.console.documents import record_of, row_of, row_of_record

MAX_ROWS: Final = 10_000
_PER_EVENT: Final = 1000  # a page that missed more gets the latest
_AT_ONCE: Final = 500  # rows made without letting other requests go on
_EVERY_S: Final = 0.7
_LOOKS: Final = 4  # for a decision that another process has not shared yet
_PER_BATCH: Final = 500  # decisions that one process shares each time; encoding more would delay requests
_FAULTS: Final = (RedisFaultError, DecisionFileError)


class Stream(Protocol):
    """Where processes share their decisions: `DecisionStream` or `DecisionFile`."""

    async def append(self, entries: list[bytes]) -> None:
        """Add entries. Raises RedisFaultError or DecisionFileError."""

    async def after(self, last: str, limit: int) -> list[tuple[str, bytes]]:
        """The newest entries after `last`, oldest first. Raises RedisFaultError or DecisionFileError."""


class SharedDecisions:
    """A BatchObserver that shares the decisions of this process, and a copy of what all share, which is read on demand.
    `scope`: those of all `replicas`, or of all processes of this `gateway`."""

    def __init__(self, stream: Stream, replica: str | None = None, *, scope: str = "replicas") -> None:
        self._stream, self._replica, self.scope = stream, replica, scope
        self._waiting: deque[Decision] = deque(maxlen=_PER_BATCH)
        self._last = ""
        self._reading = asyncio.Lock()  # two readers at once would count the same entries twice
        self.records: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self.count = 0
        self.is_up = True

    def decided_all(self, decisions: Iterable[Decision]) -> None:
        """See `BatchObserver`."""
        self._waiting.extend(decisions)

    def mirrored(self, mirrored: Mirrored) -> None:
        """Shadows are not shown."""

    @contextlib.asynccontextmanager
    async def sharing(self) -> AsyncIterator[None]:
        """Share in the background until the block ends."""
        task = asyncio.create_task(self._run(), name="shared decisions")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self.share()

    async def share(self) -> None:
        """Append the waiting decisions; those that the stream does not take are lost."""
        if not self._waiting:
            return
        entries = [orjson.dumps(record_of(each, self._replica)) for each in self._waiting]
        self._waiting.clear()
        with contextlib.suppress(*_FAULTS):
            await self._stream.append(entries)

    async def refresh(self) -> None:
        """Read what replicas have shared since the last call."""
        async with self._reading:
            await self._read()

    async def _read(self) -> None:
        try:
            entries = await self._stream.after(self._last, MAX_ROWS if not self._last else _PER_EVENT)
        except _FAULTS:
            self.is_up = False
            return
        self.is_up = True
        for number, entry in entries:
            self._last = number
            record = orjson.loads(entry)
            self.records[record["id"]] = record
            self.count += 1
        while len(self.records) > MAX_ROWS:
            self.records.popitem(last=False)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            await self.share()


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """`recent` are the decisions of this process, `shared` those of all replicas, if they share any."""

    recent: RecentDecisions
    shared: SharedDecisions | None = None

    @property
    def scope(self) -> str:
        """Whose decisions are listed: those of all `replicas`, of all processes of this `gateway`, or of this
        `process`."""
        return "process" if self._source is None else self._source.scope

    @property
    def count(self) -> int:
        """Of all decisions so far."""
        return self.recent.count if self._source is None else self._source.count

    @property
    def capacity(self) -> int:
        """How many decisions are kept."""
        return self.recent.capacity if self._source is None else MAX_ROWS

    def decisions(self, limit: int = MAX_ROWS) -> list[Decision]:
        """The newest of this process, newest first."""
        return self.recent.latest(limit)

    async def refresh(self) -> None:
        """Read what other replicas have decided. While Redis does not respond, only this process is listed."""
        if self.shared is not None:
            await self.shared.refresh()

    def records(self, limit: int) -> list[dict[str, Any]]:
        """The newest records, oldest first."""
        if self._source is None:
            return [record_of(each, self.recent.replica) for each in reversed(self.recent.latest(limit))]
        return list(islice(reversed(self._source.records.values()), limit))[::-1]

    async def rows(self, limit: int) -> list[list[Any]]:
        """The newest decisions as rows, oldest first. Other requests go on in between."""
        rows: list[list[Any]] = []
        for made in self._rows(min(limit, MAX_ROWS)):
            rows.append(made)
            if len(rows) % _AT_ONCE == 0:
                await asyncio.sleep(0)
        return rows

    async def rows_after(self, seen: int) -> tuple[list[list[Any]], int]:
        """The rows of the decisions after the first `seen`, and the number of all."""
        count = self.count
        return (await self.rows(min(count - seen, _PER_EVENT)) if count > seen else []), count

    async def find(self, query_id: str) -> dict[str, Any] | None:
        """The full record of a decision, if it is still kept. Another process may share it a moment later."""
        for _ in range(_LOOKS):
            await self.refresh()
            found = self.record(query_id)
            if found is not None or self._source is None:
                return found
            await asyncio.sleep(_EVERY_S / 2)
        return None

    def record(self, query_id: str) -> dict[str, Any] | None:
        """The full record of a decision, if it is still kept."""
        found = self.recent.get(query_id)
        if found is not None:
            return record_of(found, self.recent.replica)
        return None if self.shared is None else self.shared.records.get(query_id)

    @property
    def _source(self) -> SharedDecisions | None:
        return self.shared if self.shared is not None and self.shared.is_up else None

    def _rows(self, limit: int) -> Iterator[list[Any]]:
        if self._source is not None:
            return map(row_of_record, self.records(limit))
        return map(row_of, reversed(self.recent.latest(limit)))
