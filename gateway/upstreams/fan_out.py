"""Serves a request for `n` choices by n calls for one choice each, at targets that do not support `n`.

The responses are merged into one: choices are numbered, usage is added up. If one call fails, all are cancelled.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

import orjson

from gateway.enums import Capability
from gateway.ports import Upstream
from gateway.types import Call, Delta
from gateway.upstreams.parse_response import read_delta

MAX_AT_ONCE: Final = 4  # calls in progress
_HEAD: Final = ("id", "object", "created", "model")
_Item = tuple[int, Delta] | BaseException | None


def needs_fan_out(upstream: Upstream, call: Call) -> bool:
    """Whether the call asks for several choices, and the target gives one at a time."""
    if call.query.n == 1 or "n" in call.ignored:
        return False
    capabilities = call.target.capabilities or upstream.status.capabilities
    return capabilities is None or Capability.N not in capabilities.supported


async def send_each(upstream: Upstream, call: Call) -> "FanOutResponse":
    """Make the calls; returns when the first response begins. Raises AttemptFailed. Cancelling closes all calls."""
    response = FanOutResponse(upstream, call)
    try:
        await response.begin()
    except BaseException:  # also a cancellation
        await response.aclose()
        raise
    return response


class FanOutResponse:
    """See `ports.UpstreamResponse`."""

    def __init__(self, upstream: Upstream, call: Call) -> None:
        self._upstream = upstream
        self._call = call
        self._free = asyncio.Semaphore(MAX_AT_ONCE)
        self._items: asyncio.Queue[_Item] = asyncio.Queue(maxsize=MAX_AT_ONCE)
        self._first: _Item = None
        self._task = asyncio.create_task(self._run(), name="choices")

    async def begin(self) -> None:
        """Wait for the first item of any response. Raises the error of a call that failed before it."""
        self._first = await self._items.get()
        if isinstance(self._first, BaseException):
            raise self._first

    async def deltas(self) -> AsyncGenerator[Delta, None]:
        """See `ports.UpstreamResponse`."""
        merged = _Stream() if self._call.query.stream else _Whole()
        item = self._first
        while item is not None:
            if isinstance(item, BaseException):
                raise item
            for delta in merged.add(*item):
                yield delta
            item = await self._items.get()
        for delta in merged.finish():
            yield delta

    async def aclose(self) -> None:
        """Cancel the calls in progress."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for choice in range(self._call.query.n):
                    group.create_task(self._receive(choice))
        except BaseExceptionGroup as faults:
            await self._items.put(faults.exceptions[0])
        else:
            await self._items.put(None)

    async def _receive(self, choice: int) -> None:
        async with self._free:
            response = await self._upstream.send(replace(self._call, choice=choice))
            try:
                async for delta in response.deltas():
                    await self._items.put((choice, delta))
            finally:
                await response.aclose()


class _Merged:
    """Usage of all responses. Later reports of a choice replace earlier ones."""

    def __init__(self) -> None:
        self._usages: dict[int, dict[str, Any]] = {}
        self._costs: dict[int, float] = {}

    def take_usage(self, choice: int, document: dict[str, Any], delta: Delta) -> None:
        """Remove the usage from a document."""
        if usage := document.pop("usage", None):
            self._usages[choice] = usage
        if delta.usage is not None and delta.usage.cost is not None:
            self._costs[choice] = delta.usage.cost

    def delta(self, document: dict[str, Any]) -> Delta:
        """The document with the usage of all choices."""
        if self._usages:
            document["usage"] = _added(self._usages.values())
        delta = read_delta(orjson.dumps(document))
        if delta.usage is None or not self._costs:
            return delta
        return replace(delta, usage=replace(delta.usage, cost=sum(self._costs.values())))


class _Whole(_Merged):
    """Merges whole responses."""

    def __init__(self) -> None:
        super().__init__()
        self._documents: dict[int, dict[str, Any]] = {}

    def add(self, choice: int, delta: Delta) -> Iterable[Delta]:
        """One response."""
        document = orjson.loads(delta.data)
        self.take_usage(choice, document, delta)
        self._documents[choice] = document
        return ()

    def finish(self) -> Iterable[Delta]:
        """The merged response."""
        if not self._documents:
            return ()
        choices = [_numbered(document, choice) for choice, document in sorted(self._documents.items())]
        first = self._documents[min(self._documents)]
        return (self.delta({**first, "choices": [each for part in choices for each in part]}),)


class _Stream(_Merged):
    """Merges streams as they arrive, under the id of the first one."""

    def __init__(self) -> None:
        super().__init__()
        self._head: dict[str, Any] = {}

    def add(self, choice: int, delta: Delta) -> Iterable[Delta]:
        """One event."""
        document = orjson.loads(delta.data)
        self._head = self._head or {name: document[name] for name in _HEAD if name in document}
        had_usage = "usage" in document
        self.take_usage(choice, document, delta)
        if had_usage and not document.get("choices"):
            return ()
        return (read_delta(orjson.dumps({**document, **self._head, "choices": _numbered(document, choice)})),)

    def finish(self) -> Iterable[Delta]:
        """The usage of all choices."""
        return (self.delta({**self._head, "choices": []}),) if self._usages else ()


def _numbered(document: Mapping[str, Any], choice: int) -> list[dict[str, Any]]:
    return [{**each, "index": choice} for each in document.get("choices") or ()]


def _added(usages: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The sum of each number; the lowest `confidence`; `converged` and the like only if all are."""
    total: dict[str, Any] = {}
    for usage in usages:
        for name, value in usage.items():
            total[name] = _joined(name, total.get(name), value)
    return total


def _joined(name: str, known: Any, value: Any) -> Any:
    if known is None or value is None:
        return value if known is None else known
    if isinstance(value, Mapping):
        return _added((known, value))
    if isinstance(value, bool):
        return known and value
    if isinstance(value, int | float):
        return min(known, value) if name == "confidence" else known + value
    return known
