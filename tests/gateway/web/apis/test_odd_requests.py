"""Requests of which one field has another type, in every API."""

from dataclasses import replace
from typing import Any, Final

import orjson
import pytest

from gateway.enums import Capability, Grade, Kind
from gateway.errors import BadRequest
from gateway.routing.engine_profiles import ENGINES, capabilities_of
from gateway.types import Call, Query, Target
from gateway.upstreams.request_body import body_for
from gateway.web.apis.table import APIS
from tests.odd_values import variants

PARAMETERS = {"type": "object"}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
CHAT = {
    "messages": [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "hi"}, PICTURE], "name": "n"},
        {"role": "assistant", "content": "x", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c", "content": "r"},
    ],
    "stream": False,
    "stream_options": {"include_usage": True},
    "stop": ["a"],
    "logit_bias": {"5": 1},
    "tools": [{"type": "function", "function": {"name": "f", "parameters": PARAMETERS}}],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": PARAMETERS}},
    "metadata": {"a": "b"},
    "prediction": {"type": "content", "content": "x"},
    "diffusion": {"steps": 4},
}
RESPONSE = {
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "hi"}, {"type": "input_image", "image_url": "u"}]},
        {"type": "message", "role": "assistant", "id": "m", "content": [{"type": "output_text", "text": "x"}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "r"},
        {"type": "reasoning", "id": "rs_x", "summary": [{"type": "summary_text", "text": "t"}]},
        {"type": "custom_tool_call", "call_id": "d", "name": "g", "input": "x"},
        {"type": "custom_tool_call_output", "call_id": "d", "output": [{"type": "input_text", "text": "x"}]},
    ],
    "text": {"format": {"type": "json_schema", "name": "n", "schema": PARAMETERS}, "verbosity": "low"},
    "reasoning": {"effort": "low", "summary": "auto"},
    "include": ["message.output_text.logprobs"],
    "store": True,
    "stream_options": {"include_obfuscation": True},
    "tools": [
        {"type": "function", "name": "f", "parameters": PARAMETERS},
        {"type": "custom", "name": "g", "format": {"type": "grammar", "syntax": "lark", "definition": "x"}},
        {"type": "namespace", "name": "ns", "description": "d", "tools": [{"type": "function", "name": "h"}]},
    ],
    "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
    "metadata": {"a": "b"},
}
TEXT = {"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}
PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}
MESSAGE = {
    "max_tokens": 9,
    "system": [TEXT],
    "messages": [
        {
            "role": "user",
            "content": [
                TEXT,
                PNG,
                {"type": "document", "title": "t", "source": {"type": "content", "content": [TEXT]}},
                {"type": "search_result", "title": "t", "source": "s", "content": [TEXT]},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "x", "signature": "s"},
                {"type": "tool_use", "id": "t", "name": "f", "input": {}},
            ],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": [TEXT]}]},
    ],
    "tools": [{"name": "f", "input_schema": PARAMETERS}],
    "tool_choice": {"type": "tool", "name": "f"},
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "metadata": {"user_id": "u"},
    "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": PARAMETERS}},
}
TAGS = ("original_code", "code_to_edit", "update_snippet")
EDIT = {"messages": [{"role": "user", "content": "".join(f"<|{tag}|>x<|/{tag}|>" for tag in TAGS)}]}
DECISION = {
    "input": [{"role": "user", "content": [{"type": "input_text", "text": "x"}]}],
    "questions": [
        {"type": "predicate", "instructions": "q", "name": "n", "min_confidence": 0.5},
        {"type": "choice", "instructions": "q", "choices": [{"value": "a", "description": "d"}, {"value": True}]},
        {"type": "score", "instructions": "q", "levels": [{"label": "low"}, {"label": "high"}]},
    ],
}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/responses": RESPONSE,
    "/v1/messages": MESSAGE,
    "/v1/messages/count_tokens": {name: value for name, value in MESSAGE.items() if name != "max_tokens"},
    "/v1/completions": {"prompt": ["a", [1, 2]], "echo": True, "logprobs": 1, "stop": "a"},
    "/v1/fim/completions": {"prompt": "a", "suffix": "b", "stop": ["x"], "min_tokens": 1},
    "/v1/edit/completions": EDIT,
    "/v1/apply/completions": EDIT,
    "/v1/embeddings": {"input": ["a", [1, 2]], "encoding_format": "float", "dimensions": 5, "stream": False},
    "/v1/decisions": DECISION,
}


def test_every_api_has_a_request_here() -> None:
    assert BODIES.keys() >= {path for path, api in APIS.items() if api.writer is not None}


ALL: Final = capabilities_of(frozenset(Capability), json_schema=Grade.GUARANTEED, tools=Grade.GUARANTEED)


@pytest.mark.parametrize("path", BODIES)
def test_a_request_with_an_odd_field_is_refused_by_name_or_can_be_sent_on(path: str) -> None:
    body = {"model": "auto", **BODIES[path]}
    send(APIS[path].read(orjson.dumps(body), {}, now_s=0.0, key=None))
    unnamed = []
    for document in filter(lambda each: isinstance(each, dict), variants(body)):
        try:
            query = APIS[path].read(orjson.dumps(document), {}, now_s=0.0, key=None)
        except BadRequest as error:
            if error.param is None:
                unnamed.append((document, error.message))
        else:
            send(query)
    assert not unnamed


def send(query: Query) -> None:
    """To a server with OpenAI's API, to one with all APIs, and to a worker; the second time with all that is added."""
    asked = query.beyond_chat.decision
    for kind, capabilities in ((Kind.OPENAI, ENGINES["openai"]), (Kind.OPENAI, ALL), (Kind.WORKER, ALL)):
        target = Target(name="t", kind=kind, url="http://t", model="m", location="external")
        call = Call(target=target, query=query, questions=None if asked is None else (0,))
        ignored = (*query.parameters.names, *query.parameters.hosted)
        again = replace(call, wants_logprobs=kind is Kind.OPENAI, validation_error="wrong", ignored=ignored)
        assert all(isinstance(orjson.loads(body_for(each, capabilities)), dict) for each in (call, again))
