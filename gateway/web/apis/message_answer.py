"""Answers in the form of Anthropic's Messages API, written from chat completions, whole or as events.

Reasoning that the target reports becomes a `thinking` block, whose signature is only the ID of the request. Token
counts that the target does not report are estimated.
"""

from collections.abc import Mapping
from typing import Any, Final

from gateway.types import CHARS_PER_TOKEN, Query
from gateway.upstreams.answers import lenient
from gateway.upstreams.answers.kept_bytes import keep_bytes
from gateway.web.apis.message_blocks import BlockWriter, Event, call_of
from twolane.process import exact_json

_STOP_REASONS: Final = {
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
# Where servers report the stop string that ended an answer: vLLM, SGLang.
_STOPPED_BY: Final = ("stop_reason", "matched_stop")


class MessageWriter:
    """See `client_api.Writer`. `wall_s` is not needed: messages have no time."""

    def __init__(self, query: Query, wall_s: float) -> None:
        del wall_s
        self._query = query
        options = query.beyond_chat.options
        self._hides_thoughts = options is not None and options.thinking is False
        self._stops = frozenset[str]() if options is None else options.stops
        self._blocks = BlockWriter(query.request_id)
        self._has_begun = False
        self._usage: dict[str, Any] | None = None
        self._end = _End()

    def whole(self, completion: bytes) -> bytes:
        """The whole answer."""
        document = lenient.load(completion)
        choices = document["choices"]
        choice = choices[0] if choices else {}
        body = lenient.body_of(choice, is_chunk=False)
        end = _End()
        end.add(choice, body, self._stops)
        content = self._content(body)
        text_chars = sum(len(block.get("text") or block.get("thinking") or "") for block in content)
        message = self._head(document) | {
            "content": content,
            "stop_reason": end.reason(has_calls=any(block["type"] == "tool_use" for block in content)),
            "stop_sequence": end.stopped_by,
            "usage": self._usage_of(document.get("usage"), text_chars),
        }
        return lenient.dump(message)

    def chunks(self, chunk: bytes) -> list[bytes]:
        """The events of one chunk."""
        document = lenient.load(chunk)
        events = [] if self._has_begun else self._begin(document)
        if isinstance(document.get("usage"), dict):
            self._usage = document["usage"]
        for choice in document["choices"][:1]:
            body = lenient.body_of(choice, is_chunk=True)
            self._end.add(choice, body, self._stops)
            if (thought := lenient.thought_of(body)) and not self._hides_thoughts:
                events += self._blocks.thought(thought)
            if text := (body.get("content") or "") + (body.get("refusal") or ""):
                events += self._blocks.text(text)
            for position, call in enumerate(_calls_of(body)):
                events += self._blocks.call(lenient.index_of(call, position), call)
            if self._blocks.has_calls:  # whose fragments stay until the end, and texts behind them
                keep_bytes(len(chunk))
            if choice.get("finish_reason") is not None:
                events += self._blocks.close()
        return list(map(lenient.dump, events))

    def end(self) -> list[bytes]:
        """What ends a complete stream."""
        events = [] if self._has_begun else self._begin({})
        events += self._blocks.close()
        reason = self._end.reason(has_calls=self._blocks.has_calls)
        delta = {"stop_reason": reason, "stop_sequence": self._end.stopped_by}
        usage = self._usage_of(self._usage, self._blocks.chars)
        events += [{"type": "message_delta", "delta": delta, "usage": usage}, {"type": "message_stop"}]
        return list(map(lenient.dump, events))

    def _begin(self, document: Mapping[str, Any]) -> list[Event]:
        """The usage of the first chunk, or an estimate: `message_delta` has the final one."""
        self._has_begun = True
        message = self._head(document) | {
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": self._usage_of(document.get("usage"), 0),
        }
        return [{"type": "message_start", "message": message}, {"type": "ping"}]

    def _head(self, document: Mapping[str, Any]) -> dict[str, Any]:
        given = str(document.get("id") or self._query.request_id)
        return {
            "id": "msg_" + given.removeprefix("chatcmpl-").removeprefix("msg_"),
            "type": "message",
            "role": "assistant",
            "model": document.get("model") or self._query.model,
        }

    def _content(self, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        content: list[dict[str, Any]] = []
        if (thought := lenient.thought_of(body)) and not self._hides_thoughts:
            content.append({"type": "thinking", "thinking": thought, "signature": self._query.request_id})
        if text := (body.get("content") or "") + (body.get("refusal") or ""):
            content.append({"type": "text", "text": text})
        for position, given in enumerate(_calls_of(body)):
            call = call_of(given, position, self._query.request_id)
            content.append({"type": "tool_use", "id": call.id, "name": call.name, "input": _input(call.arguments)})
        return content

    def _usage_of(self, usage: Any, text_chars: int) -> dict[str, Any]:
        """Anthropic counts tokens that were read from a cache apart from the other ones of the input."""
        given = usage if isinstance(usage, dict) else {}
        details = given.get("prompt_tokens_details")
        cached = lenient.count_of(details.get("cached_tokens")) if isinstance(details, dict) else None
        prompt, completion = (lenient.count_of(given.get(name)) for name in ("prompt_tokens", "completion_tokens"))
        if prompt is None:
            prompt = -(-self._query.prompt_chars // CHARS_PER_TOKEN)
        if completion is None:
            completion = -(-text_chars // CHARS_PER_TOKEN)
        cached = min(cached or 0, prompt)
        return {
            "input_tokens": prompt - cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached,
            "output_tokens": completion,
        }


class _End:
    """Why the answer ended."""

    def __init__(self) -> None:
        self._finish_reason: str | None = None
        self._is_refused = False
        self.stopped_by: str | None = None

    def add(self, choice: Mapping[str, Any], body: Mapping[str, Any], stops: frozenset[str]) -> None:
        self._finish_reason = choice.get("finish_reason") or self._finish_reason
        self._is_refused = self._is_refused or bool(body.get("refusal"))
        for name in _STOPPED_BY:
            if isinstance(given := choice.get(name), str) and given in stops:
                self.stopped_by = given

    def reason(self, *, has_calls: bool) -> str:
        """Anthropic's `stop_reason`. An answer with calls asks for their results, unless it was cut off."""
        found = _STOP_REASONS.get(self._finish_reason or "", "end_turn")
        if found in ("max_tokens", "refusal"):
            return found
        if has_calls:
            return "tool_use"
        if self._is_refused:
            return "refusal"
        return "stop_sequence" if self.stopped_by is not None else "end_turn"


def _calls_of(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The fragments of calls; `function_call` is the older form of a single one."""
    calls = body.get("tool_calls")
    if isinstance(calls, list) and calls:
        return [call for call in calls if isinstance(call, dict)]
    older = body.get("function_call")
    return [{"index": 0, "function": older}] if isinstance(older, dict) and older else []


def _input(arguments: str) -> dict[str, Any]:
    """The arguments as an object; none if they were cut off."""
    try:
        found = exact_json.loads(arguments) if arguments.strip() else {}
    except exact_json.JsonError:
        return {}
    return found if isinstance(found, dict) else {}
