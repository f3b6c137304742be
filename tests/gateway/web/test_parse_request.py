"""Parsing of chat requests, and errors that name the invalid field."""

import json
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.enums import Capability, FormatKind
from gateway.errors import BadRequest, InvalidField, MalformedBody, UnsupportedMediaType
from gateway.routing.classify import EARLIER_CHARS, SEARCHED_CHARS
from gateway.types import Query
from gateway.web import parse_request
from gateway.web.output_format import MAX_SCHEMA_BYTES
from gateway.web.parse_request import check_encoding, parse_chat
from gateway.web.request_schema import MAX_MESSAGES
from twolane.process.api_keys import Key

USER = {"role": "user", "content": "hi"}
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}}


def parse(headers: dict[bytes, bytes] | None = None, **body: Any) -> Query:
    return parse_bytes(orjson.dumps({"model": "auto", "messages": [USER], **body}), headers)


def parse_bytes(body: bytes, headers: dict[bytes, bytes] | None = None) -> Query:
    return parse_chat(body, headers or {}, now_s=5.0, key=Key(name="anna"))


def format_of(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


def test_a_plain_request_needs_nothing_but_chat() -> None:
    query = parse(messages=[{"role": "system", "content": "be brief"}, USER])
    assert (query.model, query.stream, query.private, query.output_format) == ("auto", False, False, None)
    assert (query.system_text, query.last_user_text, query.message_count) == ("be brief", "hi", 2)
    assert query.needs == {Capability.CHAT}
    assert (query.principal, query.received_s) == ("anna", 5.0)
    assert query.request_id.startswith("req_")


def test_default_values_need_no_capability() -> None:
    quiet = {"temperature": 1, "top_p": 1, "n": 1, "logprobs": False, "logit_bias": {}, "stop": None, "tools": []}
    quiet |= {"top_k": -1, "min_p": 0, "presence_penalty": 0, "repetition_penalty": 1, "reasoning_effort": "none"}
    assert parse(**quiet, seed=3, response_format={"type": "text"}).needs == {Capability.CHAT}


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        ("temperature", 0, "temperature"),
        ("top_p", 0.5, "top_p"),
        ("top_k", 40, "top_k"),
        ("min_p", 0.1, "min_p"),
        ("presence_penalty", 0.1, "presence_penalty"),
        ("frequency_penalty", -0.1, "frequency_penalty"),
        ("repetition_penalty", 1.1, "repetition_penalty"),
        ("reasoning_effort", "high", "reasoning_effort"),
        ("stop", ["x"], "stop"),
        ("stream", True, "stream"),
        ("logprobs", True, "logprobs"),
        ("logit_bias", {"5": -100}, "logit_bias"),
        ("suffix", "", "suffix"),
        ("response_format", {"type": "json_object"}, "json_object"),
        ("response_format", format_of(SCHEMA), "json_schema"),
        ("structured_outputs", {"regex": "a+"}, "regex"),
        ("structured_outputs", {"choice": ["a", "b"]}, "choice"),
        ("structured_outputs", {"template": "a {} b"}, "template"),
        ("structured_outputs", {"json": SCHEMA}, "json_schema"),
        ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}], "images"),
    ],
)
def test_requested_features_become_needs(field: str, value: Any, word: str) -> None:
    assert parse(**{field: value}).needs == {Capability.CHAT, Capability(word)}


def test_tools_and_a_forced_choice_are_separate_needs() -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}]
    assert parse(tools=tools).needs == {Capability.CHAT, Capability.TOOLS}
    assert Capability.TOOL_CHOICE in parse(tools=tools, tool_choice="required").needs
    assert Capability.TOOL_CHOICE not in parse(tools=tools, tool_choice="auto").needs
    assert parse(tools=tools).tools[0].parameters == SCHEMA


def test_content_in_parts_is_joined() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert parse(messages=[{"role": "user", "content": parts}]).last_user_text == "one\ntwo"


def test_an_assistant_s_message_may_have_no_content() -> None:
    calls = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function"}]}
    assert parse(messages=[USER, calls, {"role": "tool", "content": "4", "tool_call_id": "1"}]).message_count == 3


def test_equal_schemas_have_one_digest_regardless_of_layout() -> None:
    first = parse(response_format=format_of({"type": "object", "title": "t"})).output_format
    second = parse(response_format=format_of({"title": "t", "type": "object"})).output_format
    assert first is not None
    assert second is not None
    assert first.form is FormatKind.JSON_SCHEMA
    assert first.digest == second.digest
    assert str(first.digest).startswith("sha256:")


@pytest.mark.parametrize("unread", [b'"\xff\xfe"', b"1e999", b"9" * 5000, rb'"\ud800"'])
def test_invalid_json_in_unused_fields_is_refused(unread: bytes) -> None:
    plain = orjson.dumps({"model": "auto", "messages": [USER]})[:-1]
    for extra in (
        b',"user":' + unread,
        b',"metadata":{"x":' + unread + b"}",
        b',"tools":[{"type":"x","y":' + unread + b"}]",
    ):
        with pytest.raises(BadRequest):
            parse_bytes(plain + extra + b"}")


@pytest.mark.parametrize("number", [2**63, 2**64, 2**64 + 1, -(2**63) - 1, 10**40, 10**400])
def test_a_schema_may_contain_integers_of_any_size(number: int) -> None:
    query = parse_bytes(
        json.dumps(
            {"model": "auto", "messages": [USER], "user": number, "response_format": format_of({"const": number})}
        ).encode()
    )
    assert query.output_format is not None
    assert query.output_format.schema == {"const": number}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [USER, {"role": "user", "content": 5}]}, "messages[1].content"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [USER] * (MAX_MESSAGES + 1)}, "messages"),
        ({"model": 7}, "model"),
        ({"model": ""}, "model"),
        ({"model": None}, "model"),
        ({"stream": "yes"}, "stream"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 3}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"n": 0}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"stop": 5}, "stop"),
        ({"tools": [{"type": "function", "function": {"name": 5}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": 5}}]}, "tools[0].function.parameters"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": format_of(None)}, "response_format.json_schema.schema"),
        ({"response_format": format_of({"type": "objekt"})}, "response_format.json_schema.schema"),
        ({"response_format": format_of({"$ref": "http://example.org/x"})}, "response_format.json_schema.schema"),
        ({"response_format": format_of({"pattern": "("})}, "response_format.json_schema.schema"),
        ({"response_format": format_of({"title": "x" * MAX_SCHEMA_BYTES})}, "response_format.json_schema.schema"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
        ({"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}}, "structured_outputs"),
        ({"prediction": {"type": "content"}}, "prediction.content"),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content[0].type"),
        ({"tools": [{"function": {"name": "f"}}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"response_format": {}}, "response_format.type"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.json_schema.name"),
        ({"metadata": []}, "metadata"),
        ({"store": "yes"}, "store"),
        ({"service_tier": 5}, "service_tier"),
        ({"modalities": "text"}, "modalities"),
    ],
)  # fmt: skip
def test_an_invalid_field_is_named_by_its_path(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidField) as told:
        parse(**body)
    assert told.value.param == param
    assert told.value.status == 400


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_a_missing_field_is_named(missing: str) -> None:
    body = {"model": "auto", "messages": [USER]}
    del body[missing]
    with pytest.raises(InvalidField) as told:
        parse_bytes(orjson.dumps(body))
    assert (told.value.message, told.value.param) == (f"{missing!r} is required.", missing)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"nope", b'{"model": "a",}', b"\xff\xfe", b'{"model": "\xff"}', b"[1]", b"3"]
)
def test_a_body_that_is_not_a_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest) as told:
        parse_bytes(body)
    assert told.value.status == 400


@pytest.mark.parametrize("opening", [b'{"a":', b"["])
def test_deep_nesting_is_refused_before_recursive_parsing(opening: bytes) -> None:
    with pytest.raises(MalformedBody, match="nested deeper"):
        parse_bytes(opening * 100_000)


def test_of_a_long_text_only_the_ends_are_kept() -> None:
    """Those that the classification reads; its length is that of the whole."""
    text = "<|fim_prefix|>" + "x" * 100_000 + "the end"
    query = parse(messages=[{"role": "system", "content": text}, {"role": "user", "content": text}])
    for kept in (query.system_text, query.last_user_text):
        assert len(kept) == 2 * SEARCHED_CHARS
        assert (kept[:SEARCHED_CHARS], kept[-SEARCHED_CHARS:]) == (text[:SEARCHED_CHARS], text[-SEARCHED_CHARS:])
    assert query.prompt_chars == 2 * len(text)


PRIVATE = b'"model":"auto","messages":[{"role":"user","content":"hi"}]'


@pytest.mark.parametrize("name", ["private", "Private", "PRIVATE"])
@pytest.mark.parametrize("others", [b"", b'"private":false,', b'"task":"edit","priVate":"no",'])
def test_a_request_is_private_if_any_spelling_of_the_key_says_so(name: str, others: bytes) -> None:
    body = b'{%b,"metadata":{%b"%b":true}}' % (PRIVATE, others, name.encode())
    if body.count(b'"private"') == 2:
        pytest.skip("a repeated key is refused")
    assert parse_bytes(body).private


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        (b'"metadata":{"private":true},"metadata":{}', "metadata"),
        (b'"metadata":{},"metadata":{"private":true}', "metadata"),
        (b'"metadata":{"private":true,"private":false}', "private"),
        (b'"metadata":{"private":true,"pri\\u0076ate":false}', "private"),
        (b'"Metadata":{"private":true}', "Metadata"),
        (b'"metadata":{},"METADATA":{"private":true}', "METADATA"),
        (b'"model":"other"', "model"),
        (b'"tools":[{"type":"function","function":{"name":"f","name":"g"}}]', "name"),
    ],
)
def test_a_key_that_parsers_may_read_differently_is_refused(fields: bytes, param: str) -> None:
    with pytest.raises(InvalidField) as told:
        parse_bytes(b"{%b,%b}" % (PRIVATE, fields))
    assert told.value.param == param


def test_a_byte_order_mark_is_dropped() -> None:
    """Also from the body that targets receive."""
    body = b"{%b}" % PRIVATE
    assert parse_bytes(b"\xef\xbb\xbf" + body).body == body


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_other_encodings_are_refused_by_name(encoding: str) -> None:
    with pytest.raises(MalformedBody, match="UTF-8"):
        parse_bytes(b"{%b}".decode().replace("%b", PRIVATE.decode()).encode(encoding))


@pytest.mark.parametrize("encoding", [b"gzip", b"br", b"GZIP, identity"])
def test_a_compressed_body_is_refused(encoding: bytes) -> None:
    with pytest.raises(UnsupportedMediaType):
        check_encoding({b"content-encoding": encoding})
    check_encoding({b"content-encoding": b"identity"})
    check_encoding({})


PLAIN = orjson.dumps({"model": "auto", "messages": [USER]})


@given(
    st.binary() | st.builds(lambda at, put: PLAIN[:at] + put + PLAIN[at:], st.integers(0, 70), st.binary(max_size=3))
)
def test_arbitrary_bytes_are_a_json_object_or_refused(body: bytes) -> None:
    try:
        query = parse_bytes(body)
    except BadRequest:
        return
    assert isinstance(json.loads(query.body), dict)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    "messages stream response_format structured_outputs tools tool_choice metadata diffusion prediction stop logit_bias"
    " guided_json guided_regex guided_choice json_schema regex ebnf grammar format extra_body functions function_call"
    " parallel_tool_calls structural_tag"
    " stream_options suffix n temperature".split()
)


@given(st.dictionaries(FIELDS, JSON, max_size=4))
def test_arbitrary_values_are_kept_as_they_are_or_refused(body: dict[str, Any]) -> None:
    try:
        query = parse(**body)
    except BadRequest:
        return
    assert json.loads(query.body) == {"model": "auto", "messages": [USER], **body}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            {"messages": [USER, {"role": "usr", "content": "hi"}]},
            "Invalid value 'usr' at 'messages[1].role'; allowed: system, developer, user, assistant, tool, function.",
        ),
        (
            {"response_format": {"type": "xml"}},
            "Invalid value 'xml' at 'response_format.type'; allowed: text, json_object, json_schema, regex,"
            " grammar, structural_tag.",
        ),
        (
            {"prediction": {"type": "guess", "content": "x"}},
            "Invalid value 'guess' at 'prediction.type'; allowed: content.",
        ),
    ],
)
def test_a_value_outside_a_closed_set_is_refused_with_the_allowed_ones(body: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidField) as refused:
        parse(**body)
    assert str(refused.value.message) == message


def test_a_follow_up_is_parsed_with_the_turn_before_it() -> None:
    turns = [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "reply"},
        {"role": "user", "content": "second"},
        {"role": "assistant", "content": "long " * 1000},
        {"role": "user", "content": "shorter"},
    ]
    query = parse(messages=turns)
    assert (query.earlier_text, query.last_user_text) == ("second", "shorter")
    assert query.answer_text.startswith("long long")
    assert len(query.answer_text) == 2 * EARLIER_CHARS


@pytest.mark.parametrize("messages", [[USER], [USER, USER], [{"role": "assistant", "content": "x"}, USER]])
def test_a_first_message_has_no_turn_before_it(messages: list[dict[str, Any]]) -> None:
    assert parse(messages=messages).earlier_text == ""


@pytest.mark.parametrize(
    "more",
    [
        {"stream": True, "temperature": 0.5, "metadata": {"task": "edit", "private": "yes"}},
        {"response_format": format_of(SCHEMA), "user": "u", "unheard_of": 1},
        {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required", "suffix": "s"},
        {"extra_body": {"guided_regex": "a+"}, "diffusion": {"deadline_ms": 5}},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}], "name": "n"}]},
    ],
)
def test_a_body_is_understood_alike_whether_its_fields_are_found_or_it_is_read_in_full(
    monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]
) -> None:
    found = parse(**more)
    monkeypatch.setattr(parse_request, "read_chat", lambda *_: None)
    assert replace(found, request_id="", spans=None) == replace(parse(**more), request_id="")
