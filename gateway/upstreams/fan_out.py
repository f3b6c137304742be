"""Serves a request for `n` choices by n calls for one choice each, at targets that do not support `n`, and a request
with several prompts at targets that take one.

The responses are merged into one: choices are numbered, usage is added up. If one call fails, all are cancelled.
Nothing is passed on before each of the first calls has responded: if the target refuses one, another can be tried.
"""

import asyncio
import math
import operator
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from gateway.errors import AttemptFailed, UpstreamError
from gateway.parameters import not_taken
from gateway.ports import Upstream, UpstreamResponse
from gateway.types import Call, Delta
from gateway.upstreams.answers.kept_bytes import forget_bytes, keep_bytes
from gateway.upstreams.parse_response import read_delta
from gateway.upstreams.text_prompts import takes_all_prompts
from twolane.process import exact_json

MAX_HELD_BYTES: Final = 32 * 1024 * 1024  # of all calls together, before any of it is passed on
MAX_AT_ONCE: Final = 4  # calls in progress
_HEAD: Final = ("id", "object", "created", "model")
_LEAST_OR_MOST: Final = {
    "confidence": min,
    "load": max,
    # The loosest of `thresholds`.
    "entropy_bound": max,
    "confidence_threshold": max,
    "stability": min,
}
_MOST: Final = 1e15  # tokens or passes that are taken seriously
_Item = tuple[int, Delta] | BaseException | None


def needs_fan_out(upstream: Upstream, call: Call) -> bool:
    """Whether the call asks for several choices, and the target gives one at a time; or has several prompts, and the
    target takes one at a time."""
    if call.query.n == 1:
        return False
    capabilities = call.target.capabilities or upstream.status.capabilities
    if len(call.query.beyond_chat.prompts) > 1 and not takes_all_prompts(call, capabilities):
        return True
    if "n" in call.ignored or call.query.n == len(call.query.beyond_chat.prompts):
        return False
    return capabilities is None or "n" in not_taken(capabilities)


def http_status(response: UpstreamResponse | None, error: AttemptFailed | None, *, has_data: bool) -> int | None:
    """The HTTP status of an attempt's target; None without a response. Only responses with 200 are read; those of a
    fan-out begin when they are read."""
    if error is not None and error.upstream_status is not None:
        return error.upstream_status
    return 200 if has_data or not isinstance(response, FanOutResponse | None) else None


class FanOutResponse:
    """See `ports.UpstreamResponse`. Makes the calls at once; closing it cancels those in progress."""

    def __init__(self, upstream: Upstream, call: Call) -> None:
        self._upstream = upstream
        self._call = call
        self._one = replace(call, query=replace(call.query, n=1))  # clients read a single choice more leniently
        prompts = len(call.query.beyond_chat.prompts) or 1
        self._choices = prompts if "n" in call.ignored else call.query.n
        self._per_prompt = max(1, self._choices // prompts)
        self._free = asyncio.Semaphore(MAX_AT_ONCE)
        self._items: asyncio.Queue[_Item] = asyncio.Queue(maxsize=MAX_AT_ONCE)
        self._is_closed = False
        self._task = asyncio.create_task(self._run(), name="choices")

    async def deltas(self) -> AsyncGenerator[Delta, None]:
        """See `ports.UpstreamResponse`. What the other calls have used is reported before the error of one."""
        merged = _Stream() if self._call.query.stream else _Whole()
        silent = set(range(min(self._choices, MAX_AT_ONCE)))
        held = _Held()
        while (item := await self._items.get()) is not None:
            if isinstance(item, BaseException):
                for delta in merged.used():
                    yield delta
                raise item
            choice, delta = item
            if not delta.data:  # of a response in progress
                yield replace(delta, pieces=tuple(replace(piece, index=choice) for piece in delta.pieces))
                continue
            held.add(merged.add(choice, delta))
            silent.discard(choice)
            if not silent:
                for each in held.release():
                    yield each
        for delta in (*held.release(), *merged.finish()):
            yield delta

    async def aclose(self) -> None:
        """Cancel the calls in progress."""
        self._is_closed = True
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for choice in range(self._choices):
                    group.create_task(self._receive(choice))
        except BaseExceptionGroup as faults:
            if not self._is_closed:  # then nobody reads the queue, which may be full
                await self._items.put(faults.exceptions[0])
        else:
            await self._items.put(None)

    async def _receive(self, choice: int) -> None:
        async with self._free:
            one = replace(self._one, choice=choice, prompt=choice // self._per_prompt)
            response = await self._upstream.send(one)
            try:
                async for delta in response.deltas():
                    await self._items.put((choice, delta))
            finally:
                await response.aclose()


class _Held:
    """The deltas that wait until every call has responded, counted in the request's share of the byte budget."""

    def __init__(self) -> None:
        self._deltas: list[Delta] = []
        self._size = 0

    def add(self, deltas: Iterable[Delta]) -> None:
        """Raises UpstreamError if it is too much."""
        for delta in deltas:
            keep_bytes(len(delta.data))
            self._deltas.append(delta)
            self._size += len(delta.data)
        _check_size(self._size)

    def release(self) -> list[Delta]:
        """What is held; whoever receives it counts it."""
        deltas, self._deltas = self._deltas, []
        forget_bytes(self._size)
        self._size = 0
        return deltas


class _Merged:
    """Usage of all responses. Later reports of a choice replace earlier ones."""

    _is_chunk = False

    def __init__(self) -> None:
        self._usages: dict[int, dict[str, Any]] = {}
        self._costs: dict[int, float] = {}

    def take_usage(self, choice: int, document: dict[str, Any], delta: Delta) -> None:
        """Remove the usage from a document."""
        usage = document.pop("usage", None)
        if usage and isinstance(usage, dict):
            self._usages[choice] = usage
        if delta.usage is not None and delta.usage.cost is not None:
            self._costs[choice] = delta.usage.cost

    def used(self) -> Iterable[Delta]:
        """The usage alone, as far as it is known."""
        return (self.delta({"choices": []}),) if self._usages else ()

    def delta(self, document: dict[str, Any]) -> Delta:
        """The document with the usage of all choices."""
        if self._usages:
            document["usage"] = _added(self._usages.values())
        delta = read_delta(_encoded(document), is_chunk=self._is_chunk)
        if delta.usage is None or not self._costs:
            return delta
        return replace(delta, usage=replace(delta.usage, cost=sum(self._costs.values())))


class _Whole(_Merged):
    """Merges whole responses."""

    def __init__(self) -> None:
        super().__init__()
        self._documents: dict[int, dict[str, Any]] = {}
        self._size = 0  # counted in the byte budget where it is read

    def add(self, choice: int, delta: Delta) -> Iterable[Delta]:
        """One response."""
        self._size += len(delta.data)
        _check_size(self._size)
        document = _document_of(delta)
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

    _is_chunk = True

    def __init__(self) -> None:
        super().__init__()
        self._head: dict[str, Any] = {}

    def add(self, choice: int, delta: Delta) -> Iterable[Delta]:
        """One event."""
        document = _document_of(delta)
        self._head = self._head or {name: document[name] for name in _HEAD if name in document}
        had_usage = "usage" in document
        self.take_usage(choice, document, delta)
        if had_usage and not document.get("choices"):
            return ()
        numbered = {**document, **self._head, "choices": _numbered(document, choice)}
        return (read_delta(_encoded(numbered), is_chunk=True),)

    def finish(self) -> Iterable[Delta]:
        """The usage of all choices."""
        return (self.delta({**self._head, "choices": []}),) if self._usages else ()


def _check_size(size: int) -> None:
    if size > MAX_HELD_BYTES:
        raise UpstreamError(f"The target's responses exceed {MAX_HELD_BYTES} bytes in all.", detail="answer too large")


def _document_of(delta: Delta) -> dict[str, Any]:
    """Raises UpstreamError for a response that could be read, but not be written again as it was."""
    try:
        document: dict[str, Any] = exact_json.loads(delta.data)
    except exact_json.JsonError as fault:
        raise _unreadable() from fault
    return document


def _encoded(document: dict[str, Any]) -> bytes:
    """Raises UpstreamError, as above."""
    try:
        return exact_json.dumps(document)
    except exact_json.JsonError as fault:
        raise _unreadable() from fault


def _unreadable() -> UpstreamError:
    return UpstreamError("The target's response cannot be read.", detail="malformed answer")


def _numbered(document: Mapping[str, Any], choice: int) -> list[dict[str, Any]]:
    return [{**each, "index": choice} for each in document.get("choices") or ()]


def _added(usages: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The sum of each number; the lowest `confidence`; the highest `load`; `converged` and the like only if all are;
    `tokens_per_forward` over the passes of all, if each states both."""
    total: dict[str, Any] = {}
    for number, usage in enumerate(usages):
        rate = _tokens_per_forward(total, usage) if number else usage.get("tokens_per_forward")
        for name, value in usage.items():
            total[name] = _joined(name, total.get(name), value)
        total["tokens_per_forward"] = rate
    if total.get("tokens_per_forward") is None:
        total.pop("tokens_per_forward", None)
    return total


def _tokens_per_forward(*usages: Mapping[str, Any]) -> float | None:
    """That of several answers; None where one does not say its passes."""
    passes = [_number(each.get("forward_passes")) for each in usages]
    rates = [_number(each.get("tokens_per_forward")) for each in usages]
    tokens, known = sum(rate * count for rate, count in zip(rates, passes, strict=True)), sum(passes)
    return round(tokens / known, 3) if math.isfinite(tokens) and known else None


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and abs(value) < _MOST else math.nan


def _joined(name: str, known: Any, value: Any) -> Any:
    """Of two values of different types, the first counts."""
    if known is None or value is None:
        return value if known is None else known
    if isinstance(known, Mapping) and isinstance(value, Mapping):
        return _added((known, value))
    if isinstance(known, bool) and isinstance(value, bool):
        return known and value
    if isinstance(known, int | float) and isinstance(value, int | float):
        with suppress(OverflowError):  # of a float and an integer beyond its range
            return _LEAST_OR_MOST.get(name, operator.add)(known, value)
    return known
