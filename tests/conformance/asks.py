"""The requests of the suite: each feature of chat, completions and responses, whole and as a stream, and errors."""

from collections.abc import Iterator
from typing import Any, Final

from tests.conformance.exchange import Ask

CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
HI: Final = [{"role": "user", "content": "Say hello."}]
SCHEMA: Final = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "degrees": {"type": "integer"}},
    "required": ["city", "degrees"],
    "additionalProperties": False,
}
FUNCTION: Final = {"name": "weather", "description": "The weather of a city.", "parameters": SCHEMA}
_CHAT_TOOLS: Final = [{"type": "function", "function": FUNCTION}]
_TOOLS: Final = [{"type": "function", **FUNCTION, "strict": True}]
_FORMAT: Final = {"type": "json_schema", "json_schema": {"name": "weather", "schema": SCHEMA, "strict": True}}
_CHATS: Final[dict[str, Any]] = {
    "plain": {},
    "system": {"messages": [{"role": "system", "content": "Be brief."}, *HI], "temperature": 0, "top_p": 1},
    "limit": {"max_completion_tokens": 1},
    "choices": {"n": 2},
    "logprobs": {"logprobs": True, "top_logprobs": 2},
    "tools": {"tools": _CHAT_TOOLS},
    "named": {"tools": _CHAT_TOOLS, "tool_choice": {"type": "function", "function": {"name": "weather"}}},
    "schema": {"response_format": _FORMAT},
    "object": {"response_format": {"type": "json_object"}},
    "after": {
        "messages": [
            *HI,
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "a", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
                ],
            },
            {"role": "tool", "tool_call_id": "a", "content": "sun"},
        ],
    },
}
_TEXTS: Final[dict[str, Any]] = {
    "plain": {},
    "limit": {"max_tokens": 1},
    "choices": {"n": 2},
    "prompts": {"prompt": ["Say hello.", "Say it again."], "n": 2},
    "echo": {"echo": True},
    "suffix": {"suffix": " and bye"},
    "logprobs": {"logprobs": 2},
}
_MADE: Final[dict[str, Any]] = {
    "plain": {},
    "items": {"input": [{"role": "user", "content": [{"type": "input_text", "text": "Say hello."}]}], "store": False},
    "repeated": {"instructions": "Be brief.", "max_output_tokens": 99, "temperature": 0.5, "metadata": {"team": "a"}},
    "limit": {"max_output_tokens": 1},
    "tools": {"tools": _TOOLS},
    "schema": {"text": {"format": {"type": "json_schema", "name": "weather", "schema": SCHEMA, "strict": True}}},
    "after": {
        "input": [
            *HI,
            {"type": "function_call", "call_id": "a", "name": "weather", "arguments": '{"city": "Rome"}'},
            {"type": "function_call_output", "call_id": "a", "output": "sun"},
        ],
    },
}
_INVALID: Final[tuple[tuple[str, str, dict[str, Any]], ...]] = (
    (CHAT, "messages", {"messages": None}),
    (CHAT, "messages", {"messages": []}),
    (CHAT, "messages[0].role", {"messages": [{"role": "robot", "content": "x"}]}),
    (CHAT, "temperature", {"temperature": "hot"}),
    (CHAT, "temperature", {"temperature": 2.5}),
    (CHAT, "top_p", {"top_p": -1}),
    (CHAT, "n", {"n": 0}),
    (CHAT, "max_completion_tokens", {"max_completion_tokens": 0}),
    (CHAT, "response_format.type", {"response_format": {"type": "xml"}}),
    (CHAT, "tools[0].function", {"tools": [{"type": "function"}]}),
    (CHAT, "model", {"model": None}),
    (CHAT, "stream", {"stream": "yes"}),
    (TEXT, "prompt", {"prompt": None}),
    (TEXT, "prompt", {"prompt": {}}),
    (TEXT, "echo", {"echo": "yes"}),
    (TEXT, "best_of", {"n": 3, "best_of": 2}),
    (RESPONSES, "input", {"input": None}),
    (RESPONSES, "input[0].role", {"input": [{"role": "robot", "content": "x"}]}),
    (RESPONSES, "max_output_tokens", {"max_output_tokens": 0}),
    (RESPONSES, "tools[0].name", {"tools": [{"type": "function"}]}),
    (RESPONSES, "tool_choice", {"tool_choice": "maybe"}),
    (RESPONSES, "text.format.name", {"text": {"format": {"type": "json_schema"}}}),
    (RESPONSES, "input[0].call_id", {"input": [{"type": "function_call_output", "call_id": "a", "output": "x"}]}),
    (RESPONSES, "previous_response_id", {"previous_response_id": "resp_unknown"}),
)


def asks() -> Iterator[Ask]:
    """All of them."""
    for kind, path, smallest, cases in (
        ("chat", CHAT, {"messages": HI}, _CHATS),
        ("text", TEXT, {"prompt": "Say hello."}, _TEXTS),
        ("response", RESPONSES, {"input": "Say hello."}, _MADE),
    ):
        for fields in cases.values():
            whole = Ask(kind, path, {"model": "auto", **smallest, **fields})
            yield whole
            yield Ask(f"{kind} stream", path, {**whole.body, "stream": True}, of=whole)
        if kind != "response":
            usage = {"stream": True, "stream_options": {"include_usage": True}}
            plain = Ask(kind, path, {"model": "auto", **smallest})
            yield Ask(f"{kind} stream", path, {**plain.body, **usage}, of=plain)
        yield Ask("unknown model", path, {"model": "no-such-model", **smallest})
        yield Ask("unknown model", path, {"model": "no-such-model", **smallest, "stream": True})
        yield Ask("malformed", path, raw=b'{"model": ')
        yield Ask("method", path, raw=b"", method="GET")
    smallest_of = {CHAT: {"messages": HI}, TEXT: {"prompt": "x"}, RESPONSES: {"input": "x"}}
    for path, param, fields in _INVALID:
        given = {"model": "auto", **smallest_of[path], **fields}
        yield Ask(f"invalid: {param}", path, {name: value for name, value in given.items() if value is not None})
    yield Ask("unknown path", "/v1/no-such-path")
    yield Ask("models", "/v1/models", raw=b"", method="GET")
