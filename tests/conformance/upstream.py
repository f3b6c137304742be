"""A server without a fault: OpenAI's chat completions, text completions and responses, scripted, over a real socket."""

import json
from typing import Any, Final

from aiohttp import web

from tests.gateway.serving import start_stream
from tests.gateway.test_passed_responses import Provider, called, message

TEXT: Final = "Hello there."
TOKENS: Final = ("Hello", " there", ".")
OBJECT: Final = '{"city": "Rome", "degrees": 20}'


async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """Whole or streamed, as requested."""
    if request.path.endswith("/responses"):
        return await _response(request, body)
    is_text = not request.path.endswith("/chat/completions")
    if not body.get("stream"):
        return web.json_response(_text(body) if is_text else _chat(body))
    stream = await start_stream(request)
    chunks = _text_chunks(body) if is_text else _chat_chunks(body)
    for chunk in chunks:
        await stream.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
    await stream.write(b"data: [DONE]\n\n")
    return stream


def _head(body: dict[str, Any], form: str) -> dict[str, Any]:
    key = "cmpl-1" if form.startswith("text") else "chatcmpl-1"
    return {"id": key, "object": form, "created": 1, "model": body["model"], "system_fingerprint": "fp_1"}


def _usage(body: dict[str, Any]) -> dict[str, Any]:
    made = (body.get("n") or 1) * len(_tokens(body))
    return {"prompt_tokens": 4, "completion_tokens": made, "total_tokens": 4 + made}


def _tokens(body: dict[str, Any]) -> tuple[str, ...]:
    """Of one choice. A limit of one token cuts the text."""
    limit = body.get("max_completion_tokens", body.get("max_tokens", body.get("max_output_tokens")))
    if limit == 1:
        return TOKENS[:1]
    return TOKENS if not _is_object(body) else tuple(OBJECT)


def _is_object(body: dict[str, Any]) -> bool:
    return "response_format" in body or "format" in (body.get("text") or {})


def _reason(body: dict[str, Any]) -> str:
    return "length" if len(_tokens(body)) == 1 else "stop"


def _message(body: dict[str, Any]) -> dict[str, Any]:
    said = {"role": "assistant", "content": "".join(_tokens(body)), "refusal": None, "annotations": []}
    if not body.get("tools"):
        return said
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": OBJECT}}
    return {**said, "content": None, "tool_calls": [call]}


def _logprobs(body: dict[str, Any]) -> dict[str, Any] | None:
    if not body.get("logprobs"):
        return None
    return {"content": [_token(token, body.get("top_logprobs") or 0) for token in _tokens(body)], "refusal": None}


def _token(token: str, top: int) -> dict[str, Any]:
    record = {"token": token, "logprob": -0.25, "bytes": list(token.encode())}
    return {**record, "top_logprobs": [record, {**record, "token": "x", "logprob": -2.5}][:top]}


def _chat(body: dict[str, Any]) -> dict[str, Any]:
    said = _message(body)
    reason = "tool_calls" if "tool_calls" in said else _reason(body)
    choices = [
        {"index": index, "message": said, "logprobs": _logprobs(body), "finish_reason": reason}
        for index in range(body.get("n") or 1)
    ]
    return {**_head(body, "chat.completion"), "choices": choices, "usage": _usage(body), "service_tier": "default"}


def _chat_chunks(body: dict[str, Any]) -> Any:
    head = _head(body, "chat.completion.chunk")
    shown = {"usage": None} if (body.get("stream_options") or {}).get("include_usage") else {}
    said = _message(body)
    for index in range(body.get("n") or 1):
        for delta in _deltas(said, body):
            logprobs = None
            if body.get("logprobs") and delta.get("content"):
                logprobs = {"content": [_token(delta["content"], body.get("top_logprobs") or 0)], "refusal": None}
            choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": None}
            yield {**head, "choices": [choice], **shown}
        reason = "tool_calls" if "tool_calls" in said else _reason(body)
        yield {**head, "choices": [{"index": index, "delta": {}, "logprobs": None, "finish_reason": reason}], **shown}
    if shown:
        yield {**head, "choices": [], "usage": _usage(body)}


def _deltas(said: dict[str, Any], body: dict[str, Any]) -> Any:
    if "tool_calls" not in said:
        yield {"role": "assistant", "content": "", "refusal": None}
        yield from ({"content": token} for token in _tokens(body))
        return
    (call,) = said["tool_calls"]
    begun = {"index": 0, **call, "function": {"name": call["function"]["name"], "arguments": ""}}
    yield {"role": "assistant", "content": None, "tool_calls": [begun]}
    for character in call["function"]["arguments"]:
        yield {"tool_calls": [{"index": 0, "function": {"arguments": character}}]}


def _text_choices(body: dict[str, Any]) -> int:
    prompts = body["prompt"] if isinstance(body["prompt"], list) else [body["prompt"]]
    return len(prompts) * (body.get("n") or 1)


def _text_logprobs(body: dict[str, Any], tokens: tuple[str, ...]) -> dict[str, Any] | None:
    if body.get("logprobs") is None:
        return None
    tops = [{token: -0.25, "x": -2.5} for token in tokens]
    offsets = [sum(map(len, tokens[:at])) for at in range(len(tokens))]
    return {
        "tokens": list(tokens),
        "token_logprobs": [-0.25] * len(tokens),
        "top_logprobs": tops,
        "text_offset": offsets,
    }


def _text(body: dict[str, Any]) -> dict[str, Any]:
    tokens = _tokens(body)
    choice = {"text": "".join(tokens), "logprobs": _text_logprobs(body, tokens), "finish_reason": _reason(body)}
    choices = [{"index": index, **choice} for index in range(_text_choices(body))]
    return {**_head(body, "text_completion"), "choices": choices, "usage": _usage(body)}


def _text_chunks(body: dict[str, Any]) -> Any:
    head = _head(body, "text_completion")
    shown = {"usage": None} if (body.get("stream_options") or {}).get("include_usage") else {}
    for index in range(_text_choices(body)):
        for token in _tokens(body):
            logprobs = _text_logprobs(body, (token,))
            choice = {"index": index, "text": token, "logprobs": logprobs, "finish_reason": None}
            yield {**head, "choices": [choice], **shown}
        end = {"index": index, "text": "", "logprobs": None, "finish_reason": _reason(body)}
        yield {**head, "choices": [end], **shown}
    if shown:
        yield {**head, "choices": [], "usage": _usage(body)}


class _Perfect(Provider):
    """Repeats what the request asked for, and begins a stream with the two events of OpenAI's."""

    def __init__(self, body: dict[str, Any]) -> None:
        super().__init__()
        self._body = body

    def head(self, body: dict[str, Any]) -> dict[str, Any]:
        given = {"temperature": 1.0, "top_p": 1.0, "max_output_tokens": None, "incomplete_details": None, **body}
        names = "temperature top_p max_output_tokens metadata incomplete_details previous_response_id truncation"
        form = body.get("text") or {"format": {"type": "text"}}
        return {**super().head(body), **{name: given.get(name) for name in names.split()}, "text": form}

    def events(self) -> Any:
        yield "response.in_progress", {"response": self.head(self._body)}
        yield from super().events()


async def _response(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    provider = _Perfect(body)
    provider.output = [called("weather", OBJECT)] if body.get("tools") else [message("".join(_tokens(body)))]
    if _reason(body) == "length":
        provider.output[0]["status"] = "incomplete"
        provider.changes = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    return await provider.answer(request, body)
