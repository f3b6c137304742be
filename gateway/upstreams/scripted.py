"""The fake that ships: an Upstream whose answers, delays and faults come from a script. No socket, no thread.

Used by tests and dry runs; a policy file cannot name it.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from gateway.errors import AttemptFailed, UpstreamError
from gateway.types import Call, Delta, Status
from gateway.upstreams.parse_response import read_delta


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One answer of the script. Without a fault it is complete; with one, `fault` is raised behind `texts`.

    `before_s` passes before the answer begins, `between_s` before each text.
    """

    texts: tuple[str, ...] = ()
    fault: AttemptFailed | None = None
    before_s: float = 0.0
    between_s: float = 0.0
    confidence: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)  # merged into the message of a whole answer


def says(*texts: str, **more: Any) -> Line:
    """A complete answer, in as many chunks as texts."""
    return Line(texts=texts, **more)


def fails(fault: AttemptFailed | None = None, *texts: str, **more: Any) -> Line:
    """An answer that breaks, behind `texts` if there are any."""
    return Line(texts=texts, fault=fault or UpstreamError("scripted"), **more)


class Scripted:
    """Plays its lines in order, the last one for ever. `calls` and `left` tell what was asked and what hung up."""

    def __init__(self, lines: Iterable[Line], *, sleep: Callable[[float], Any] = asyncio.sleep) -> None:
        self._lines = list(lines)
        self._sleep = sleep
        self.status = Status()
        self.calls: list[Call] = []
        self.left = 0  # replies given up before their end

    async def send(self, call: Call) -> "ScriptedReply":
        """See `ports.Upstream`. A fault without texts comes instead of an answer."""
        line = self._lines[min(len(self.calls), len(self._lines) - 1)]
        self.calls.append(call)
        try:
            await self._sleep(line.before_s)
        except asyncio.CancelledError:
            self.left += 1
            raise
        if line.fault and not line.texts:
            raise line.fault
        return ScriptedReply(self, line, stream=call.query.stream, sleep=self._sleep)

    async def aclose(self) -> None:
        """Nothing to close."""


class ScriptedReply:
    """See `ports.UpstreamResponse`."""

    def __init__(self, owner: Scripted, line: Line, *, stream: bool, sleep: Callable[[float], Any]) -> None:
        self._owner = owner
        self._line = line
        self._documents = _stream(line) if stream else _whole(line)
        self._sleep = sleep
        self._finished = False

    async def deltas(self) -> AsyncGenerator[Delta, None]:
        """The scripted chunks, then the scripted fault if there is one."""
        for document in self._documents:
            await self._sleep(self._line.between_s)
            yield read_delta(orjson.dumps(document))
        self._finished = True
        if self._line.fault:
            raise self._line.fault

    async def aclose(self) -> None:
        """Counts replies that were not read to their end."""
        self._owner.left += not self._finished


def _stream(line: Line) -> Sequence[dict[str, Any]]:
    chunks: list[dict[str, Any]] = [
        {"id": "scripted", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": text}}]}
        for text in line.texts
    ]
    if not line.fault:
        chunks.append({"id": "scripted", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        chunks.append({"id": "scripted", "choices": [], "usage": _usage(line)})
    return chunks


def _whole(line: Line) -> Sequence[dict[str, Any]]:
    if line.fault:
        return ()
    message = {"role": "assistant", "content": "".join(line.texts), **line.extra}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return ({"id": "scripted", "object": "chat.completion", "choices": [choice], "usage": _usage(line)},)


def _usage(line: Line) -> dict[str, Any]:
    usage: dict[str, Any] = {"prompt_tokens": 1, "completion_tokens": max(1, len(line.texts))}
    if line.confidence is not None:
        usage["diffusion"] = {"confidence": line.confidence, "converged": True}
    return usage
