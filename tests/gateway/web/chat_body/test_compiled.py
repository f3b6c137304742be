"""The quick reader of chats accepts only what the full readers accept, with the same result."""

import contextlib
import json
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.errors import BadRequest
from gateway.reliability.load_balancing import PREFIX_CHARS
from gateway.web import parse_request
from gateway.web.chat_body import compiled
from gateway.web.chat_body.compiled import FIELD_RULES, RARE, read_chat
from gateway.web.chat_body.conversation import Chat, Conversation, chat_of
from gateway.web.parse_request import CHAT, decode, parse_chat
from gateway.web.request_schema import MAX_MESSAGES, ChatRequest, Message, StreamOptions
from tests.twolane.process.http.test_compiled import edited
from twolane.process.http.json_body import MAX_VALUES, JsonBodyError, read_json

pytestmark = pytest.mark.skipif(not compiled.IS_BUILT, reason="the compiled reader is not built")

Spans = dict[str, tuple[int, int]]


def read(body: bytes, *, max_values: int = MAX_VALUES) -> tuple[Spans, Chat | None] | None:
    found = read_chat(body, FIELD_RULES, max_values, MAX_MESSAGES, PREFIX_CHARS)
    return None if found is None else (found[0], None if found[1] is None else Chat(*found[1]))


def common(body: bytes) -> Chat | None:
    found = read(body)
    return None if found is None else found[1]


def read_in_full(body: bytes) -> Chat:
    request, _, text = decode(body, CHAT)
    assert text == body
    return chat_of(request, Conversation(request.messages))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
)
# What is cut out of a text, or put into it.
ODD = st.sampled_from(
    [
        *(b"", b'"', b"\\", b"\\u0041", b"\\u00e9", b"\\u2603", b"\\ud800", b"\\ud83d\\ude00", b"\\udc00", b"\\n"),
        *(b"\xff", b"\xed\xa0\x80", b"\0", b"\x1f", b"{", b"}", b"[", b"]", b",", b":", b"0", b"-", b"1e9", b"1."),
        *(b"01", b"9" * 30, b" ", b"\t", b"\v", b"nul", b"null", b"true", b'"a":1', b'"a":1,', b'"n":1,', b"\xc3\xa9"),
        *(b"\xf0\x9f\x98\x80", b'{"role":"user","content":"x"},', b'"name":"x",', b'"content":"y",', b".5", b"\\u0000"),
    ]
)
EDITS = st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 3), ODD), max_size=3)
ROLES = st.sampled_from(["system", "developer", "user", "assistant", "tool", "function"])
TEXT = st.text(st.sampled_from('ab"\\/\n\r\t\b\f\0\x7f é\xff\u0100\u2603\uffff\U0001f600'), max_size=40)
MESSAGES = st.lists(st.fixed_dictionaries({"role": ROLES, "content": TEXT}), min_size=1, max_size=6)
SMALL = st.sampled_from(
    [
        None,
        True,
        False,
        "",
        "x",
        [],
        {},
        0,
        1,
        2,
        3,
        -1,
        -2,
        -3,
        20,
        21,
        128,
        129,
        0.0,
        -0.0,
        0.5,
        1.0,
        2.000000000000001,
    ]
)
FIELDS = st.dictionaries(
    st.sampled_from(sorted({*FIELD_RULES, "user", "unheard_of"} - {"messages"})), SMALL, max_size=3
)
CHATS = st.builds(lambda messages, more: {"model": "auto", "messages": messages} | more, MESSAGES, FIELDS)
USAGE = {"stream": True, "stream_options": {"include_usage": True, "other": [1]}}
COMMON = {"model": "auto", "messages": [{"role": "user", "content": 'Ünïcödé \n\t\r\b\f/\\" ☃ 😀'}], "temperature": 0.7}
COMMON |= {"n": None, "user": "u"}
LEAST = {"model": "m", "messages": [{"role": "user", "content": "x"}]}


@given(st.dictionaries(st.text(max_size=6), VALUES, max_size=6) | VALUES, EDITS, st.booleans())
@example({"a": 1, "b": 2}, [(8, 3, b'"a"')], False)
def test_an_object_whose_fields_are_found_is_read_alike(
    value: Any, edits: list[tuple[int, int, bytes]], is_ascii: bool
) -> None:
    body = edited(json.dumps(value, ensure_ascii=is_ascii).encode("utf-8", "replace"), edits)
    found = read(body)
    if found is not None:
        text, document = read_json(body)
        assert text == body
        assert {name: msgspec.json.decode(body[start:end]) for name, (start, end) in found[0].items()} == document


@given(CHATS, EDITS, st.booleans(), st.sampled_from([None, 1]))
@example({**LEAST, **USAGE}, [], False, None)
def test_a_common_chat_is_read_as_it_is_read_in_full(
    chat: Any, edits: list[tuple[int, int, bytes]], is_ascii: bool, indent: int | None
) -> None:
    body = edited(json.dumps(chat, ensure_ascii=is_ascii, indent=indent).encode(), edits)
    found = common(body)
    if found is not None:
        assert found == read_in_full(body)
        assert [type(each) for each in found] == [type(each) for each in read_in_full(body)]


@given(CHATS, EDITS)
def test_a_query_is_the_same_whether_its_body_is_read_quickly_or_in_full(
    chat: Any, edits: list[tuple[int, int, bytes]]
) -> None:
    body = edited(json.dumps(chat).encode(), edits)
    results = []
    with pytest.MonkeyPatch.context() as patched:
        for _ in range(2):
            try:
                results.append(repr(replace(parse_chat(body, {}, now_s=0.0, key=None), request_id="", spans=None)))
            except BadRequest as fault:
                results.append(repr(fault))
            patched.setattr(parse_request, "read_chat", lambda *_: None)
    assert results[0] == results[1]


@pytest.mark.parametrize("is_ascii", [False, True])
@pytest.mark.parametrize("indent", [None, 2])
def test_common_chats_are_read(is_ascii: bool, indent: int | None) -> None:
    body = json.dumps(COMMON, ensure_ascii=is_ascii, indent=indent).encode()
    found = read(body)
    assert found is not None
    assert {name: json.loads(body[start:end]) for name, (start, end) in found[0].items()} == COMMON
    assert found[1] is not None
    assert (found[1].model, found[1].user_text, found[1].n) == ("auto", COMMON["messages"][0]["content"], 1)


@pytest.mark.parametrize("text", ["a", "é", "☃", "😀"])
@pytest.mark.parametrize("is_ascii", [False, True])
def test_texts_of_all_lengths_and_widths_are_read(text: str, is_ascii: bool) -> None:
    """Blocks of 16 bytes are read and written at once."""
    for size in (*range(36), 100):
        for content in (
            "x" * size + text + "y" * 17,
            text * size,
            "\n" * size + text,
            "x" * size + '"\\' + text + "\n",
        ):
            messages = [{"role": "user", "content": content}]
            found = common(json.dumps({**LEAST, "messages": messages}, ensure_ascii=is_ascii).encode())
            assert found is not None
            assert (found.user_text, found.prompt_chars) == (content, len(content))


ONE_FIELD = [
    *({"model": "m" * 256}, {"model": "é" * 256}, {"n": 128}, {"temperature": 2}, {"temperature": 2.0}, {"top_p": 0}),
    *({"repetition_penalty": 0.001}, {"presence_penalty": -2}, {"top_k": -1}, {"seed": -(10**15)}, {"stream": None}),
    *(
        {"max_tokens": 10**16},
        {"service_tier": "x"},
        {"store": False},
        {"stream_options": None},
        {"stream_options": {}},
    ),
    *({"stream_options": {"include_usage": None}}, {"reasoning_effort": {"any": [1]}}),
]


@pytest.mark.parametrize("field", ONE_FIELD)
def test_fields_within_their_limits_are_common(field: dict[str, Any]) -> None:
    body = json.dumps({**LEAST, **field}).encode()
    assert common(body) == read_in_full(body)


OTHER_FIELD = [
    *({"model": ""}, {"model": "m" * 257}, {"model": None}, {"model": 1}, {"n": 0}, {"n": 129}, {"n": 1.0}, {"n": "1"}),
    *(
        {"temperature": 2.1},
        {"temperature": -0.1},
        {"temperature": True},
        {"top_p": 1.00001},
        {"top_k": -2},
        {"seed": []},
    ),
    *({"repetition_penalty": 0}, {"repetition_penalty": 0.0}, {"max_tokens": 0}, {"stream": 1}, {"stream": "true"}),
    *({"service_tier": 1}, {"store": {}}, {"stream_options": 1}, {"stream_options": "x"}, {"stream_options": []}),
    *({"stream_options": {"include_usage": 1}}, {"stop": "x"}, {"messages": []}, {"messages": {}}, {"messages": "x"}),
    *({name: None} for name in sorted(RARE)),
]


@pytest.mark.parametrize("field", OTHER_FIELD, ids=str)
def test_other_fields_are_left_to_the_full_reader(field: dict[str, Any]) -> None:
    found = read(json.dumps({**LEAST, **field}).encode())
    assert found is not None
    assert found[1] is None


USER = {"role": "user", "content": "x"}
OTHER_MESSAGES = [
    *({**USER, "name": None}, {**USER, "cache_control": {}}, {"role": "user"}, {"content": "x"}, {}, [], "x", None),
    *({**USER, "content": None}, {**USER, "content": [{"type": "text", "text": "x"}]}, {**USER, "role": "User"}),
    *({**USER, "role": "tools"}, {**USER, "role": 1}, {**USER, "role": None}, {**USER, "tool_calls": []}),
]


@pytest.mark.parametrize("message", OTHER_MESSAGES, ids=str)
@pytest.mark.parametrize("before", [0, 1, 40])
def test_other_messages_are_left_to_the_full_reader(message: Any, before: int) -> None:
    found = read(json.dumps({**LEAST, "messages": [USER] * before + [message, USER]}).encode())
    assert found is not None
    assert found[1] is None


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_a_chat_without_a_required_field_is_left_to_the_full_reader(missing: str) -> None:
    assert common(json.dumps({name: value for name, value in LEAST.items() if name != missing}).encode()) is None


@pytest.mark.parametrize("count", [1, 31, 32, 33, 64, 65, 300, MAX_MESSAGES, MAX_MESSAGES + 1])
def test_conversations_of_all_lengths_up_to_the_limit_are_read(count: int) -> None:
    roles = ("system", "user", "assistant", "tool")
    messages = [{"role": roles[at * at % 4], "content": f"text {at}"} for at in range(count)]
    body = json.dumps({**LEAST, "messages": messages}).encode()
    assert (common(body) is None) is (count > MAX_MESSAGES)
    if count <= MAX_MESSAGES:
        assert common(body) == read_in_full(body)


@given(st.lists(ROLES, min_size=1, max_size=7), st.integers(0, 3))
def test_the_texts_that_routing_needs_are_those_of_the_same_messages(roles: list[str], length: int) -> None:
    messages = [{"role": role, "content": f"{at}" * 400 * length} for at, role in enumerate(roles)]
    body = json.dumps({**LEAST, "messages": messages}).encode()
    assert common(body) == read_in_full(body)


@given(st.integers(1, 40), st.integers(1, 40))
def test_the_limit_of_values_is_that_of_the_full_reader(entries: int, limit: int) -> None:
    for body in (json.dumps({"a": [1] * entries}), json.dumps({**LEAST, "messages": [USER] * entries})):
        with contextlib.suppress(JsonBodyError):
            read_json(body.encode(), max_values=limit)
            continue
        assert read(body.encode(), max_values=limit) is None


@pytest.mark.parametrize("depth", [63, 64, 65, 10_000])
@pytest.mark.parametrize("name", ["a", "messages", "stream_options"])
def test_the_limit_of_depth_is_that_of_the_full_reader(depth: int, name: str) -> None:
    body = b'{"%b":' % name.encode() + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"
    assert (read(body) is None) is (depth > 64)


CUT = json.dumps({**COMMON, **USAGE}, ensure_ascii=False).encode()
NO_OBJECTS = [b"", b'{"\\u0061":1}', b"[]", b"1", b"\xef\xbb\xbf{}", CUT + b" x", CUT + CUT]
REPEATED = [
    b'{"model":"a","model":"b","messages":[{"role":"user","content":"x"}]}',
    b'{"model":"a","messages":[{"role":"user","content":"x","content":"y"}]}',
    b'{"model":"a","messages":[{"role":"user","content":"x"}],"stream_options":{"include_usage":true,"include_usage":1}}',
]
STRINGS = [
    b'"\\ud800"',
    b'"\\ud800\\u0041"',
    b'"\\udc00"',
    b'"\\ud800\\n"',
    b'"\\u00g0"',
    b'"\\x"',
    b'"\x1f"',
    b'"\xff"',
]


@pytest.mark.parametrize("body", [*NO_OBJECTS, *REPEATED])
def test_what_is_repeated_or_no_plain_object_is_left_to_the_full_reader(body: bytes) -> None:
    assert read(body) is None


def test_what_is_cut_off_is_left_to_the_full_reader() -> None:
    assert [read(CUT[:size]) for size in range(len(CUT))] == [None] * len(CUT)


@pytest.mark.parametrize("string", STRINGS)
def test_strings_that_are_odd_are_left_to_the_full_reader(string: bytes) -> None:
    assert read(b'{"model":"m","messages":[{"role":"user","content":%b}]}' % string) is None
    assert read(b'{"model":"m","user":%b}' % string) is None


@pytest.mark.parametrize("hint", [{}, {b"x-twolane-private": b"yes"}, {b"x-twolane-deadline-ms": b"5"}])
def test_the_hints_of_a_common_chat_hold(hint: dict[bytes, bytes]) -> None:
    query = parse_chat(json.dumps({**LEAST, **USAGE}).encode(), hint, now_s=0.0, key=None)
    assert (query.private, query.deadline_ms) == (
        b"x-twolane-private" in hint,
        5.0 if len(hint) and not query.private else None,
    )
    assert (query.stream, query.include_usage, len(query.needs)) == (True, True, 2)


def test_the_reader_knows_all_fields_of_a_message_and_of_a_stream_s_options() -> None:
    """It names them itself; the fields of a chat come from `ChatRequest`."""
    assert Message.__struct_fields__ == ("role", "content", "name", "cache_control")
    assert StreamOptions.__struct_fields__ == ("include_usage",)
    assert {*ChatRequest.__struct_fields__} <= FIELD_RULES.keys()
