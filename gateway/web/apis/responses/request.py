"""Requests for responses: `/v1/responses`.

A request is parsed as the chat with the same meaning. What a chat cannot ask for is refused by name, or, for hosted
tools, by every target whose policy does not ignore them.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Final, Literal

import msgspec

from gateway.errors import BadRequest, InvalidField
from gateway.types import Query
from gateway.web.apis.client_api import renamed_field, with_names
from gateway.web.apis.responses.history import PREVIOUS, History
from gateway.web.apis.responses.input_items import conversation_of, is_passed, items_of
from gateway.web.apis.responses.tools import Tools, repeated_tools, tool_choice_of, tools_of
from gateway.web.parse_request import decode, parse_chat
from gateway.web.request_schema import Positive
from twolane.process import exact_json
from twolane.process.api_keys import Key
from twolane.process.trace_context import Trace

# Names of chat fields and their names here, in errors.
RENAMED: Final = {
    "messages": "input",
    "response_format": "text.format",
    "response_format.type": "text.format.type",
    "response_format.pattern": "text.format.pattern",
    "response_format.json_schema.name": "text.format.name",
    "response_format.json_schema.schema": "text.format.schema",
    "max_completion_tokens": "max_output_tokens",
    "reasoning_effort": "reasoning.effort",
    "verbosity": "text.verbosity",
    "logprobs": "include",
}
_OF_CHATS: Final = {
    **{name: RENAMED[name] for name in ("messages", "response_format", "max_completion_tokens", "reasoning_effort")},
    "verbosity": RENAMED["verbosity"],
    "logprobs": RENAMED["logprobs"],
    "max_tokens": "max_output_tokens",
    "functions": "tools",
    "function_call": "tool_choice",
}
# Fields of this API alone, and those that a chat spells differently.
_OWN: Final = frozenset(
    "input instructions text reasoning include store background background_options conversation previous_response_id"
    " prompt context_management moderation truncation max_output_tokens max_tool_calls stream_options tools tool_choice"
    " parallel_tool_calls top_logprobs access_programs image metadata n"
    " client_metadata".split()
)
# Fields that a target with responses takes. A request with any other is sent as a chat, which may have them.
_PASSED: Final = _OWN | frozenset(
    "model stream temperature top_p user safety_identifier service_tier prompt_cache_key prompt_cache_retention"
    " prompt_cache_options".split()
)
_PASSED_FORMATS: Final = ("text", "json_schema", "json_object")
_SEND_ITEMS: Final = "send the earlier items themselves in 'input', as SDKs do if 'store' is false"
_STATEFUL: Final = {
    "conversation": f"the gateway keeps no conversations; {_SEND_ITEMS}",
    "background": "leave it out, and wait for the response or stream it",
}
_NO_STORE: Final = {PREVIOUS: f"the gateway keeps no responses; {_SEND_ITEMS}"}
_HOSTED: Final = ("prompt", "context_management", "moderation")
_LOGPROBS: Final = "message.output_text.logprobs"
_INCLUDES: Final = (
    _LOGPROBS,
    "reasoning.encrypted_content",
    "message.input_image.image_url",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
)
_REPEATED: Final = (
    "instructions max_output_tokens max_tool_calls prompt_cache_key safety_identifier user temperature top_p"
    " presence_penalty frequency_penalty previous_response_id parallel_tool_calls service_tier top_logprobs truncation"
    " metadata"
).split()
_TOOL: Final = re.compile(r"tools\[(\d+)\](?:\.(?:function|custom)\b)?")


class _Text(msgspec.Struct):
    format: dict[str, Any] | None = None
    verbosity: str | None = None


class _Reasoning(msgspec.Struct):
    effort: str | None = None
    summary: str | None = None


class _StreamOptions(msgspec.Struct):
    include_obfuscation: bool | None = None


class _Fields(msgspec.Struct):
    """All fields but `conversation`, which is refused whatever it is, and those that chats have too or that have
    parsers of their own."""

    instructions: str | None = None
    text: _Text | None = None
    reasoning: _Reasoning | None = None
    include: list[str] | None = None
    store: bool | None = None
    background: bool | None = None
    truncation: Literal["auto", "disabled"] | None = None
    max_output_tokens: Positive | None = None
    parallel_tool_calls: bool | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    metadata: dict[str, Any] | None = None
    n: int | None = None
    max_tool_calls: Positive | None = None
    stream_options: _StreamOptions | None = None
    previous_response_id: str | None = None
    prompt: dict[str, Any] | None = None
    context_management: list[dict[str, Any]] | None = None
    moderation: dict[str, Any] | None = None
    background_options: dict[str, Any] | None = None
    access_programs: dict[str, Any] | None = None
    image: dict[str, Any] | None = None
    client_metadata: dict[str, Any] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: dict[str, Any] | None = None


_DECODER: Final = msgspec.json.Decoder(_Fields)


def parse_response(
    body: bytes,
    headers: dict[bytes, bytes],
    *,
    now_s: float,
    key: Key | None,
    trace: Trace | None = None,
    history: History | None = None,
) -> Query:
    """See `client_api.Parse`. `history` is what the request refers to in the store; None without a store."""
    given, document, body = decode(body, _DECODER)
    _refuse(given, document, _STATEFUL if history is not None else _STATEFUL | _NO_STORE)
    history = history or History(0, keeps=False)
    before, added = history.items_before(document.get(PREVIOUS)), history.resolved(document.get("input"))
    conversation = conversation_of(added, given.instructions, before)
    tools = tools_of(document.get("tools"))
    chat = {name: value for name, value in document.items() if name not in _OWN}
    chat["messages"] = conversation.messages
    _write_options(chat, given)
    _write_tools(chat, given, document, tools)
    sent = exact_json.dumps(chat)
    # Labels: the policy reads them, and OpenAI's chats take them only together with `store`.
    labelled = sent if given.metadata is None else exact_json.dumps({**chat, "metadata": given.metadata})
    try:
        query = parse_chat(labelled, headers, now_s=now_s, key=key, trace=trace)
    except BadRequest as error:
        raise with_names(_at_its_tool(error, tools), RENAMED) from None
    hosted = {name: name for name in _HOSTED if document.get(name) is not None} | conversation.hosted | tools.hosted
    query = _as_response(query, sent, given, document, hosted)
    if history.limits:  # what was limited to some locations must not leave them with a later request
        query = replace(query, locations=(*query.locations, *history.limits))
    items = [*before, *items_of(added)] if before or isinstance(added, list) else added
    query = replace(query, beyond_chat=replace(query.beyond_chat, response_body=_passed(body, given, document, items)))
    if not history.keeps or not given.store or query.private:
        return query
    stored = exact_json.dumps(items_of(items))
    beyond = replace(query.beyond_chat, items_to_store=stored, ignored=query.beyond_chat.ignored - {"store"})
    return replace(query, beyond_chat=beyond)


def _passed(body: bytes, given: _Fields, document: dict[str, Any], items: Any) -> bytes | None:
    """The request for targets with responses; None if only a chat can ask for all of it. `items` is its whole input."""
    fields = {name for name, value in document.items() if value is not None}
    form = ((given.text or _Text()).format or {}).get("type", "text")
    if not fields <= _PASSED or form not in _PASSED_FORMATS:
        return None
    passed = items if isinstance(items, str) else [item for item in items if is_passed(item)]
    if passed == document.get("input"):
        return body
    return exact_json.dumps({**document, "input": passed})


def _as_response(query: Query, body: bytes, given: _Fields, document: dict[str, Any], hosted: dict[str, str]) -> Query:
    parameters = query.parameters
    if hosted:
        parameters = replace(parameters, names=parameters.names | hosted.keys(), hosted=hosted)
    asked = {"store": given.store, "truncation": given.truncation == "auto"}
    ignored = frozenset(name for name, is_asked in asked.items() if is_asked)
    return replace(
        query,
        body=body,
        include_usage=True,
        parameters=parameters,
        beyond_chat=replace(
            query.beyond_chat,
            ignored=ignored,
            repeated=_repeated(given, document),
            renamed={"logprobs": "top_logprobs"} if given.top_logprobs else {},
        ),
    )


def _refuse(given: _Fields, document: dict[str, Any], stateful: Mapping[str, str]) -> None:
    """Raises InvalidField for what needs state that the gateway does not have, and for fields of chats."""
    for name, cure in stateful.items():
        if document.get(name) not in (None, False):
            raise InvalidField(f"{name!r} is not supported: {cure}.", param=name)
    for name, own in _OF_CHATS.items():
        if document.get(name) is not None:
            raise InvalidField(f"{name!r} is a field of chat completions; use {own!r}.", param=name)
    if given.n not in (None, 1):
        raise InvalidField("'n' must be 1: a response has one answer.", param="n")
    for number, name in enumerate(given.include or ()):
        if name not in _INCLUDES:
            param = f"include[{number}]"
            raise InvalidField(f"Invalid value {name!r} at {param!r}; allowed: {', '.join(_INCLUDES)}.", param=param)


def _write_options(chat: dict[str, Any], given: _Fields) -> None:
    text, reasoning = given.text or _Text(), given.reasoning or _Reasoning()
    if text.format is not None:
        chat["response_format"] = _response_format(text.format)
    written: dict[str, Any] = {
        "verbosity": text.verbosity,
        "reasoning_effort": reasoning.effort,
        "max_completion_tokens": given.max_output_tokens,
    }
    if given.top_logprobs or _LOGPROBS in (given.include or ()):
        written |= {"logprobs": True, "top_logprobs": given.top_logprobs}
    chat |= {name: value for name, value in written.items() if value is not None}


def _response_format(given: dict[str, Any]) -> dict[str, Any]:
    """The fields of a schema are nested in a chat; all other types have the same form."""
    if given.get("type") is None:
        raise InvalidField("'text.format.type' is required.", param="text.format.type")
    if given["type"] != "json_schema":
        return given
    for name in ("name", "schema"):
        if given.get(name) is None:
            raise InvalidField(f"'text.format.{name}' is required.", param=f"text.format.{name}")
    nested = {name: value for name, value in given.items() if name != "type" and value is not None}
    return {"type": "json_schema", "json_schema": nested}


def _write_tools(chat: dict[str, Any], given: _Fields, document: dict[str, Any], tools: Tools) -> None:
    choice = tool_choice_of(document.get("tool_choice"), tools)
    if choice is not None:
        chat["tool_choice"] = choice
    if tools.entries:
        chat["tools"] = tools.entries
        if given.parallel_tool_calls is not None:
            chat["parallel_tool_calls"] = given.parallel_tool_calls


def _at_its_tool(error: BadRequest, tools: Tools) -> BadRequest:
    """The error with the tool's field in the request, and without the nesting of chats."""

    def own(found: re.Match[str]) -> str:
        return tools.fields[int(found[1])]

    if error.param is not None and _TOOL.match(error.param):
        return renamed_field(error, _TOOL.sub(own, error.param, count=1))
    return error


def _repeated(given: _Fields, document: dict[str, Any]) -> dict[str, Any]:
    text, reasoning = document.get("text") or {}, given.reasoning or _Reasoning()
    found = {name: document[name] for name in _REPEATED if document.get(name) is not None}
    found["text"] = {**text, "format": text.get("format") or {"type": "text"}}
    found["reasoning"] = {"effort": reasoning.effort, "summary": reasoning.summary}
    found["tools"] = repeated_tools(document.get("tools"))
    if document.get("tool_choice") is not None:
        found["tool_choice"] = document["tool_choice"]
    return found
