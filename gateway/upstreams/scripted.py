"""A fake Upstream whose responses, delays and failures come from a script; no socket, no thread.

For tests and dry runs; a policy file cannot use it.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from gateway.errors import AttemptFailed, UpstreamError
from gateway.ports import HEARTBEAT
from gateway.types import Call, Delta, Status
from gateway.upstreams.parse_response import read_delta


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedResponse:
    """One response of the script. With a `fault`, the fault is raised after `texts`.

    `before_s` passes before the response starts, `between_s` before each text, with a heartbeat every `heartbeat_s`.
    """

    texts: tuple[str, ...] = ()
    fault: AttemptFailed | None = None
    before_s: float = 0.0
    between_s: float = 0.0
    heartbeat_s: float | None = None
    confidence: float | None = None
    finish_reason: str = "stop"
    extra: dict[str, Any] = field(default_factory=dict)  # merged into the message of a whole response
    choice: dict[str, Any] = field(default_factory=dict)  # merged into its choice
    deltas: Sequence[dict[str, Any]] = ()  # of a stream, before the texts


def says(*texts: str, **more: Any) -> ScriptedResponse:
    """A complete response with one chunk per text."""
    return ScriptedResponse(texts=texts, **more)


def fails(fault: AttemptFailed | None = None, *texts: str, **more: Any) -> ScriptedResponse:
    """A response that fails, after `texts` if there are any."""
    return ScriptedResponse(texts=texts, fault=fault or UpstreamError("scripted"), **more)


class ScriptedUpstream:
    """Plays its responses in order and repeats the last. `calls` records calls, `left` counts cancelled ones."""

    def __init__(self, responses: Iterable[ScriptedResponse], *, sleep: Callable[[float], Any] = asyncio.sleep) -> None:
        self._responses = list(responses)
        self._sleep = sleep
        self.status = Status()
        self.calls: list[Call] = []
        self.left = 0  # replies closed before their end

    async def send(self, call: Call) -> "ScriptedReply":
        """See `ports.Upstream`. A fault without texts is raised instead of a response."""
        response = self._responses[min(len(self.calls), len(self._responses) - 1)]
        self.calls.append(call)
        try:
            await self._sleep(response.before_s)
        except asyncio.CancelledError:
            self.left += 1
            raise
        if response.fault and not response.texts:
            raise response.fault
        return ScriptedReply(self, response, stream=call.query.stream, sleep=self._sleep)

    async def aclose(self) -> None:
        """Nothing to close."""


class ScriptedReply:
    """See `ports.UpstreamResponse`."""

    def __init__(
        self, owner: ScriptedUpstream, response: ScriptedResponse, *, stream: bool, sleep: Callable[[float], Any]
    ) -> None:
        self._owner = owner
        self._response = response
        self._documents = _stream(response) if stream else _whole(response)
        self._sleep = sleep
        self._finished = False

    async def deltas(self) -> AsyncGenerator[Delta, None]:
        """The scripted chunks, then the scripted fault if there is one."""
        for document in self._documents:
            left_s = self._response.between_s
            while self._response.heartbeat_s is not None and left_s > self._response.heartbeat_s:
                await self._sleep(self._response.heartbeat_s)
                left_s -= self._response.heartbeat_s
                yield HEARTBEAT
            await self._sleep(left_s)
            yield read_delta(orjson.dumps(document))
        self._finished = True
        if self._response.fault:
            raise self._response.fault

    async def aclose(self) -> None:
        """Counts replies that were not read to their end."""
        self._owner.left += not self._finished


def _stream(response: ScriptedResponse) -> Sequence[dict[str, Any]]:
    chunks: list[dict[str, Any]] = [
        {"id": "scripted", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": text}}]}
        for text in response.texts
    ]
    chunks[:0] = [{"id": "scripted", "choices": [{"index": 0, "delta": delta}]} for delta in response.deltas]
    if not response.fault:
        chunks.append(
            {"id": "scripted", "choices": [{"index": 0, "delta": {}, "finish_reason": response.finish_reason}]}
        )
        chunks.append({"id": "scripted", "choices": [], "usage": _usage(response)})
    return chunks


def _whole(response: ScriptedResponse) -> Sequence[dict[str, Any]]:
    if response.fault:
        return ()
    message = {"role": "assistant", "content": "".join(response.texts), **response.extra}
    choice = {"index": 0, "message": message, "finish_reason": response.finish_reason}
    choice |= response.choice
    return ({"id": "scripted", "object": "chat.completion", "choices": [choice], "usage": _usage(response)},)


def _usage(response: ScriptedResponse) -> dict[str, Any]:
    usage: dict[str, Any] = {"prompt_tokens": 1, "completion_tokens": max(1, len(response.texts))}
    if response.confidence is not None:
        usage["diffusion"] = {"confidence": response.confidence, "converged": True}
    return usage
