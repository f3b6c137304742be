"""Anthropic's Messages API, `/v1/messages`: a request becomes the chat request with the same parameters.

What only Anthropic's servers have is refused by name where the answer depends on it, and dropped where it does not.
"""

import hashlib
import re
from dataclasses import replace
from typing import Annotated, Any, Final, Literal

import msgspec

from gateway.beyond_chat import MessagesOptions
from gateway.errors import BadRequest, InvalidField
from gateway.types import CHARS_PER_TOKEN, Query
from gateway.upstreams.messages_options import THOUGHTS
from gateway.web.apis.client_api import renamed_field
from gateway.web.apis.message_turns import chat_messages
from gateway.web.parse_request import decode, parse_chat
from gateway.web.request_schema import ABSENT, MAX_MESSAGES, MAX_TOOLS, Positive, is_present
from twolane.process import exact_json
from twolane.process.api_keys import Key
from twolane.process.trace_context import Trace

_MESSAGE_TOKENS: Final = 4  # of role and control tokens
_IMAGE_TOKENS: Final = 1600  # the most that Anthropic's models take for one
MAX_USER_CHARS: Final = 64  # of OpenAI's `user`
_FORMAT: Final = "output_config.format"
# Fields of this API, and of chats, that the chat request has in another form or not at all.
_OWN_FIELDS: Final = frozenset(
    "messages system max_tokens max_completion_tokens stop_sequences tools tool_choice parallel_tool_calls metadata"
    " thinking output_format output_config service_tier context_management cache_control betas speed stream_options"
    " diagnostics".split()
)
_REFUSED: Final = {
    "mcp_servers": "the gateway runs no tools",
    "container": "the gateway runs no code",
    "inference_geo": "the policy decides where a request is processed",
    "n": "an answer is one message",
    "stop": "use 'stop_sequences'",
    "functions": "use 'tools'",
    "function_call": "use 'tool_choice'",
}
# Fields of chat requests that have another name here, as errors name them.
RENAMED: Final = {
    "stop": "stop_sequences",
    "response_format": _FORMAT,
    "parallel_tool_calls": "tool_choice.disable_parallel_tool_use",
    "reasoning_effort": "thinking",
    "user": "metadata.user_id",
}
_NESTED: Final = (
    (re.compile(r"^tools\[(\d+)\]\.function\.parameters"), r"tools[\1].input_schema"),
    (re.compile(r"^tools\[(\d+)\]\.function\."), r"tools[\1]."),
    (re.compile(r"^response_format\.json_schema\.schema"), f"{_FORMAT}.schema"),
)


class _Source(msgspec.Struct):
    """Where a document or an image is."""

    content: "str | list[_Block] | None" = None


class _Block(msgspec.Struct):
    """One block of content; only the fields whose type matters to every kind of block."""

    type: str
    input: dict[str, Any] | None = None
    content: "str | list[_Block] | None" = None
    source: _Source | str | None = None  # of a search result, a text
    thinking: str | None = None
    is_error: bool | None = None


class _Turn(msgspec.Struct):
    role: Literal["user", "assistant", "system"]
    content: str | list[_Block]


class _TextBlock(msgspec.Struct):
    type: Literal["text"]
    text: str


class _Tool(msgspec.Struct):
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    type: str | None = None
    description: str | None = None
    input_schema: msgspec.Raw = ABSENT


class _ToolChoice(msgspec.Struct):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class _Thinking(msgspec.Struct):
    type: Literal["enabled", "disabled", "adaptive"]


class _Format(msgspec.Struct):
    type: Literal["json_schema"]
    schema: dict[str, Any]


class _OutputConfig(msgspec.Struct):
    format: _Format | None = None


class _CountFields(msgspec.Struct):
    """The fields of a request whose tokens are counted."""

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    messages: Annotated[list[_Turn], msgspec.Meta(min_length=1, max_length=MAX_MESSAGES)]
    system: str | list[_TextBlock] | None = None
    tools: Annotated[list[_Tool], msgspec.Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: _ToolChoice | None = None
    thinking: _Thinking | None = None
    output_format: _Format | None = None
    output_config: _OutputConfig | None = None
    metadata: dict[str, Any] | None = None
    stream: bool | None = None
    service_tier: str | None = None
    stop_sequences: list[str] | None = None


class _MessagesFields(_CountFields, kw_only=True):
    max_tokens: Positive


_MESSAGES: Final = msgspec.json.Decoder(_MessagesFields)
_COUNT: Final = msgspec.json.Decoder(_CountFields)


def parse_messages(
    body: bytes, headers: dict[bytes, bytes], *, now_s: float, key: Key | None, trace: Trace | None = None
) -> Query:
    """See `client_api.Parse`."""
    given, document, _ = decode(body, _MESSAGES)
    chat = _chat_body(given, document) | {"max_tokens": given.max_tokens}
    return _as_query(given, chat, headers, now_s=now_s, key=key, trace=trace)


def parse_count(
    body: bytes, headers: dict[bytes, bytes], *, now_s: float, key: Key | None, trace: Trace | None = None
) -> Query:
    """The request whose input tokens are counted; see `client_api.Parse`. It needs no `max_tokens`."""
    given, document, _ = decode(body, _COUNT)
    chat = _chat_body(given, document) | {"stream": False}
    query = _as_query(given, chat, headers, now_s=now_s, key=key, trace=trace)
    options = replace(query.beyond_chat.options or MessagesOptions(), estimated_tokens=estimated_tokens(chat))
    return replace(query, beyond_chat=replace(query.beyond_chat, options=options))


def estimated_tokens(chat: dict[str, Any]) -> int:
    """About how many tokens a chat has: a quarter of its bytes, and some for each message and image."""
    messages: list[dict[str, Any]] = chat["messages"]
    parts: list[dict[str, Any]] = [
        part for message in messages if isinstance(message["content"], list) for part in message["content"]
    ]
    images: int = sum(part["type"] == "image_url" for part in parts)
    texts: list[str] = [message["content"] for message in messages if isinstance(message["content"], str)]
    texts += [part["text"] for part in parts if part["type"] == "text"]
    texts += [call["function"]["arguments"] for message in messages for call in message.get("tool_calls", ())]
    sizes = [len(text.encode("utf-8", "surrogatepass")) for text in texts]
    sizes += [len(exact_json.dumps(tool["function"])) for tool in chat.get("tools", ())]
    return -(-sum(sizes) // CHARS_PER_TOKEN) + _MESSAGE_TOKENS * len(messages) + _IMAGE_TOKENS * images


def _as_query(
    given: _CountFields,
    chat: dict[str, Any],
    headers: dict[bytes, bytes],
    *,
    now_s: float,
    key: Key | None,
    trace: Trace | None,
) -> Query:
    try:
        query = parse_chat(exact_json.dumps(chat), headers, now_s=now_s, key=key, trace=trace)
    except BadRequest as error:
        raise _in_terms_of_messages(error) from None
    last = chat["messages"][-1]
    options = MessagesOptions(
        thinking=None if given.thinking is None else given.thinking.type != "disabled",
        is_prefilled=last["role"] == "assistant" and not last.get("tool_calls"),
        stops=frozenset(given.stop_sequences or ()),
        has_thoughts=any(THOUGHTS in message for message in chat["messages"]),
    )
    wanted = query.output_format
    if wanted is not None:
        wanted = replace(wanted, param=_format_name(given) or wanted.param)
    return replace(query, output_format=wanted, beyond_chat=replace(query.beyond_chat, options=options))


def _chat_body(given: _CountFields, document: dict[str, Any]) -> dict[str, Any]:
    for name, cause in _REFUSED.items():
        if document.get(name) not in (None, [], {}):
            raise InvalidField(f"{name!r} is not supported: {cause}.", param=name)
    chat = {name: value for name, value in document.items() if name not in _OWN_FIELDS and name not in _REFUSED}
    chat["messages"] = chat_messages(document.get("system"), document["messages"])
    if given.stream:
        chat["stream_options"] = {"include_usage": True}
    if given.stop_sequences:
        chat["stop"] = given.stop_sequences
    if given.service_tier == "standard_only":
        chat["service_tier"] = "default"
    _write_tools(chat, given, document)
    _write_metadata(chat, given.metadata or {})
    _write_format(chat, given)
    return chat


def _write_tools(chat: dict[str, Any], given: _CountFields, document: dict[str, Any]) -> None:
    tools = [_tool(number, tool, document["tools"][number]) for number, tool in enumerate(given.tools or ())]
    choice = given.tool_choice
    if tools:
        chat["tools"] = tools
    if choice is None:
        return
    if not tools:
        if choice.type in ("any", "tool"):
            raise InvalidField("'tool_choice' requires 'tools'.", param="tool_choice")
        return
    if choice.disable_parallel_tool_use:
        chat["parallel_tool_calls"] = False
    match choice.type:
        case "any":
            chat["tool_choice"] = "required"
        case "tool":
            if not choice.name:
                raise InvalidField("'tool_choice.name' is required for type 'tool'.", param="tool_choice.name")
            chat["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
        case _:
            chat["tool_choice"] = choice.type


def _tool(number: int, tool: _Tool, entry: dict[str, Any]) -> dict[str, Any]:
    if tool.type not in (None, "custom"):
        param = f"tools[{number}].type"
        raise InvalidField(
            f"Tools of type {tool.type!r} at {param!r} are not supported; only custom tools are.", param=param
        )
    if not is_present(tool.input_schema):
        param = f"tools[{number}].input_schema"
        raise InvalidField(f"{param!r} is required.", param=param)
    function: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    function["parameters"] = entry["input_schema"]
    cache_control = entry.get("cache_control")
    return {"type": "function", "function": function} | ({"cache_control": cache_control} if cache_control else {})


def _write_metadata(chat: dict[str, Any], metadata: dict[str, Any]) -> None:
    """The user as OpenAI names it, hashed if it is longer than that field allows; other members are hints."""
    user = metadata.get("user_id")
    if isinstance(user, str) and user:
        is_short = len(user) <= MAX_USER_CHARS
        chat["user"] = user if is_short else hashlib.sha256(user.encode("utf-8", "surrogatepass")).hexdigest()
    if hints := {name: value for name, value in metadata.items() if name != "user_id"}:
        chat["metadata"] = hints


def _write_format(chat: dict[str, Any], given: _CountFields) -> None:
    newer = given.output_config.format if given.output_config else None
    wanted = newer or given.output_format
    if wanted is None:
        return
    if newer is not None and given.output_format is not None and newer.schema != given.output_format.schema:
        raise InvalidField(f"Set {_FORMAT!r} or 'output_format', not both.", param="output_format")
    if "response_format" in chat:
        raise InvalidField(f"Set {_format_name(given)!r} or 'response_format', not both.", param="response_format")
    chat["response_format"] = {"type": "json_schema", "json_schema": {"name": "output", "schema": wanted.schema}}


def _format_name(given: _CountFields) -> str | None:
    if given.output_config is not None and given.output_config.format is not None:
        return _FORMAT
    return None if given.output_format is None else "output_format"


def _in_terms_of_messages(error: BadRequest) -> BadRequest:
    """The error with the field named as the client wrote it."""
    if error.param is None:
        return error
    name = RENAMED.get(error.param, error.param)
    for pattern, replacement in _NESTED:
        name = pattern.sub(replacement, name)
    return renamed_field(error, name)
