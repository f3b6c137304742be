"""Parsing of responses, whole and streamed, valid and invalid."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import AttemptFailed, DeadlineExceeded, Overloaded, Refused, UpstreamAuth, UpstreamError
from gateway.types import Piece, ToolCall, Usage
from gateway.upstreams.answers.lenient import ChunkState
from gateway.upstreams.parse_response import read_delta, read_event, read_text_answer, with_texts


def test_a_whole_response_is_one_delta() -> None:
    data = orjson.dumps(
        {
            "choices": [
                {
                    "index": 0,
                    "message": {
                        "content": None,
                        "tool_calls": [
                            {"id": "a", "function": {"name": "f", "arguments": "{}"}},
                            {"id": "b", "function": {"name": "g", "arguments": "[]"}},
                        ],
                    },
                    "finish_reason": "tool_calls",
                },
                {"index": 1, "message": {"content": "hi"}, "finish_reason": "stop"},
            ],
            "usage": {"prompt_tokens": 1, "completion_tokens": 2, "diffusion": {"confidence": 0.5, "converged": True}},
        }
    )
    delta = read_delta(data)
    assert delta.data is data
    calls = (ToolCall(index=0, name="f", arguments="{}", id="a"), ToolCall(index=1, name="g", arguments="[]", id="b"))
    assert delta.pieces == (
        Piece(index=0, tool_calls=calls, finish_reason="tool_calls", is_answer=True),
        Piece(index=1, text="hi", finish_reason="stop", is_answer=True),
    )
    assert delta.usage == Usage(input_tokens=1, output_tokens=2, confidence=0.5, converged=True)


def test_a_chunk_is_read_with_its_fragments() -> None:
    fragment = {"index": 2, "function": {"arguments": '{"a'}}
    chunk = {"choices": [{"index": 0, "delta": {"content": "x", "tool_calls": [fragment]}}], "usage": None}
    delta = read_delta(orjson.dumps(chunk))
    assert delta.pieces == (Piece(index=0, text="x", tool_calls=(ToolCall(index=2, arguments='{"a'),), is_answer=True),)
    assert delta.usage is None


def test_an_error_inside_a_stream_keeps_its_meaning() -> None:
    with pytest.raises(UpstreamError):
        read_delta(b'{"error": {"message": "boom", "code": null}}')
    with pytest.raises(DeadlineExceeded):
        read_delta(b'{"error": {"message": "late", "code": "deadline_exceeded"}}')
    with pytest.raises(UpstreamError):
        read_delta(b'{"error": "boom"}')


@pytest.mark.parametrize("error", [None, {}, "", False, []])
def test_an_empty_error_is_none(error: Any) -> None:
    assert read_delta(orjson.dumps({"error": error, "choices": []})).pieces == ()


def test_an_error_beside_a_whole_answer_is_ignored_and_one_in_a_chunk_is_not() -> None:
    message = {"choices": [{"message": {"content": "hi"}}], "error": {"message": "late"}}
    assert read_delta(orjson.dumps(message)).pieces[0].text == "hi"
    with pytest.raises(UpstreamError):
        read_delta(orjson.dumps({"choices": [{"delta": {"content": "hi"}}], "error": {"message": "late"}}))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"code": 429}, Overloaded),
        ({"code": "429"}, Overloaded),
        ({"code": None, "status": 503}, Overloaded),
        ({"type": "rate_limit_error"}, Overloaded),
        ({"type": "overloaded_error"}, Overloaded),
        ({"code": "rate_limit_exceeded"}, Overloaded),
        ({"type": "authentication_error"}, UpstreamAuth),
        ({"code": "invalid_api_key", "type": "invalid_request_error"}, UpstreamAuth),
        ({"code": 401}, UpstreamAuth),
        ({"type": "invalid_request_error"}, Refused),
        ({"type": "BadRequestError", "code": 400}, Refused),
        ({"type": "server_error", "code": None}, UpstreamError),
        ({"code": 7, "status": "UNKNOWN"}, UpstreamError),
    ],
)
def test_code_status_or_type_of_an_error_with_status_200_say_what_it_is(error: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        read_delta(orjson.dumps({"error": {"message": "no", **error}}))


@pytest.mark.parametrize(
    ("body", "text", "is_answer"),
    [
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "ab", True),
        ({"content": ["a", {"text": "b"}, {"type": "reference", "reference_ids": [1]}]}, "ab", True),
        ({"content": {"type": "text", "text": "a"}}, "a", True),
        ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]}, "", True),
        ({"content": []}, "", True),
        ({"content": [{"type": "text", "text": {"value": "a", "annotations": []}}]}, "a", True),
        ({"content": [{"type": "text", "content": "a"}, {"type": "output_text", "text": "b"}]}, "ab", True),
        ({"content": [{"type": "image_url"}]}, "", False),
        ({"content": [None]}, "", False),
        ({"content": 7}, "7", True),
        ({"content": ""}, "", True),
        ({"content": None}, "", False),
        ({"role": "assistant"}, "", False),
        ({"reasoning_content": "hm"}, "", True),
        ({"function_call": {"name": "f", "arguments": ""}}, "", True),
        ({"tool_calls": []}, "", False),
        ({"tool_calls": {"id": "a", "function": {"name": "f", "arguments": "{}"}}}, "", True),
        ("x", "", False),
    ],
)
def test_content_is_read_in_the_forms_that_servers_send(body: Any, text: str, is_answer: bool) -> None:
    delta = read_delta(orjson.dumps({"choices": [{"index": 0, "delta": body}]}))
    assert [(piece.text, piece.is_answer) for piece in delta.pieces] == [(text, is_answer)]


def test_text_in_parts_is_forwarded_as_text_and_reasoning_beside_it() -> None:
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "a"}]
    delta = read_delta(orjson.dumps({"id": "x", "choices": [{"message": {"content": parts}}]}))
    (choice,) = orjson.loads(delta.data)["choices"]
    assert choice["message"] == {"content": "a", "reasoning_content": "hm"}


@pytest.mark.parametrize("index", [1.0, "1"])
def test_an_index_of_another_type_is_an_index(index: Any) -> None:
    delta = read_delta(orjson.dumps({"choices": [{"index": index, "delta": {"content": "a"}}]}))
    assert delta.pieces[0].index == 1


def test_choices_without_an_index_are_numbered_by_position() -> None:
    delta = read_delta(b'{"choices": [{"message": {"content": "a"}}, {"message": {"content": "b"}}]}')
    assert [(piece.index, piece.text) for piece in delta.pieces] == [(0, "a"), (1, "b")]


@pytest.mark.parametrize("value", ["NaN", "-Infinity", "1e400"])
def test_numbers_that_json_does_not_have_are_forwarded_as_null(value: str) -> None:
    data = f'{{"choices": [{{"delta": {{"content": 3}}, "logprobs": {{"x": {value}}}}}]}}'.encode()
    assert orjson.loads(read_delta(data).data)["choices"][0]["logprobs"] == {"x": None}


def test_integers_of_any_size_survive_a_rewrite_and_lone_surrogates_are_replaced() -> None:
    data = b'{"choices": [{"delta": {"content": ["a\\ud800"]}}], "id": 123456789012345678901234567890}'
    rewritten = read_delta(data).data
    assert b"123456789012345678901234567890" in rewritten
    assert read_delta(rewritten).pieces[0].text == "a\ufffd"


def test_fragments_of_tool_calls_without_an_index_are_numbered_by_id_or_name() -> None:
    calls = ChunkState()
    fragments: list[dict[str, Any]] = [
        {"id": "a", "function": {"name": "f", "arguments": "{"}},
        {"function": {"arguments": "}"}},
        {"id": "a", "function": {"name": "f", "arguments": ""}},
        {"id": "b", "function": {"name": "f", "arguments": {"x": 1}}},
        {"function": {"name": "g", "arguments": "{}"}},
    ]
    found: list[tuple[int, str]] = []
    for fragment in fragments:
        delta = read_event(orjson.dumps({"choices": [{"index": 0, "delta": {"tool_calls": [fragment]}}]}), calls)
        assert delta is not None
        found += [(call.index, call.arguments) for call in delta.pieces[0].tool_calls]
        (sent,) = orjson.loads(delta.data)["choices"][0]["delta"]["tool_calls"]
        assert sent["index"] == found[-1][0]
    assert found == [(0, "{"), (0, "}"), (0, ""), (1, '{"x":1}'), (2, "{}")]


@pytest.mark.parametrize(
    "data",
    [b'{"type": "ping"}', b"{}", b'{"choices": null}', b'{"choices": "x"}', b"null", b"[]", b'"ping"', b"7"],
)
def test_an_event_that_adds_nothing_is_skipped(data: bytes) -> None:
    assert read_event(data, ChunkState()) is None


def test_usage_beside_no_choices_is_kept_and_forwarded_with_an_empty_list() -> None:
    delta = read_event(b'{"usage": {"prompt_tokens": 3.0, "completion_tokens": "4", "extra": []}}', ChunkState())
    assert delta is not None
    assert (delta.usage, delta.pieces) == (Usage(input_tokens=3, output_tokens=4), ())
    assert orjson.loads(delta.data)["choices"] == []


@pytest.mark.parametrize("usage", [None, [], "x", 7, {}, {"prompt_tokens": None}, {"prompt_tokens": {"a": 1}}])
def test_odd_usage_does_not_spoil_an_answer(usage: Any) -> None:
    delta = read_delta(orjson.dumps({"choices": [{"message": {"content": "hi"}}], "usage": usage}))
    assert (delta.pieces[0].text, delta.usage in (None, Usage())) == ("hi", True)


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"choices": 1}', b"\xff"])
def test_an_invalid_response_is_an_upstream_error(data: bytes) -> None:
    with pytest.raises(UpstreamError):
        read_delta(data)


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(["choices", "usage", "error", "id"]), ANY))
def test_parsing_raises_only_attempt_failures(document: dict[str, Any]) -> None:
    try:
        read_delta(orjson.dumps(document))
    except (AttemptFailed, TypeError) as fault:
        assert isinstance(fault, AttemptFailed) or "64-bit" in str(fault)  # noqa: PT017 - either is fine


def test_the_text_of_a_whole_response_can_be_replaced() -> None:
    calls = [{"id": "c", "function": {"name": "f", "arguments": "{"}}]
    body = {"message": {"content": "old", "tool_calls": calls}, "index": 0, "finish_reason": "stop", "mine": 1}
    delta = read_delta(orjson.dumps({"id": "x", "choices": [body]}))
    (said,) = with_texts([delta], {(0, None): "new", (0, 0): "{}"}, is_chunk=False)
    assert said.pieces[0].text == "new"
    assert said.pieces[0].tool_calls[0].arguments == "{}"
    assert orjson.loads(said.data)["id"] == "x"
    assert orjson.loads(said.data)["choices"][0]["mine"] == 1


def test_the_text_of_a_stream_can_be_replaced() -> None:
    parts: list[Any] = [{"role": "assistant"}, {"content": "a"}, {"content": "b"}, {}]
    deltas = [read_delta(orjson.dumps({"choices": [{"index": 0, "delta": part}]})) for part in parts]
    deltas.append(read_delta(b'{"choices": [], "usage": {"prompt_tokens": 1}}'))
    said = with_texts(deltas, {(0, None): "abc", (1, None): "not here"}, is_chunk=True)
    assert [piece.text for delta in said for piece in delta.pieces] == ["", "abc", "", ""]
    assert said[4] is deltas[4]
    assert b"assistant" in said[0].data


@pytest.mark.parametrize("tokens", [-1, 1 << 41, 10**30])
@pytest.mark.parametrize("confidence", [-0.1, 7])
def test_impossible_usage_is_ignored(tokens: int, confidence: float) -> None:
    diffusion = f'{{"confidence":{confidence},"load":{confidence}}}'
    told = f'"prompt_tokens":{tokens},"completion_tokens":{tokens},"diffusion":{diffusion}'
    data = f'{{"choices":[],"usage":{{{told}}}}}'.encode()
    assert read_delta(data).usage == Usage()
    assert read_delta(data).data is data


TEXT_ANSWER = {
    "id": "x",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "hé", "refusal": None, "annotations": []},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 7, "diffusion": {"confidence": 2.0, "load": 0.5}},
}
# What takes the place of a value.
OTHERS = (None, "", "a", 0, -1, 1.0, 1 << 41, 1 << 64, True, [], {}, ["a"], {"a": None}, {"content": "b"})


def test_the_text_of_one_choice_is_read_in_one_pass() -> None:
    data = orjson.dumps(TEXT_ANSWER)
    delta = read_text_answer(data)
    assert delta is not None
    assert delta.data is data
    assert delta.pieces == (Piece(index=0, text="hé", finish_reason="stop", is_answer=True),)
    assert delta.usage == Usage(input_tokens=3, output_tokens=7, load=0.5)


def places_of(value: Any, *above: Any) -> list[tuple[Any, ...]]:
    """Where the values of a document are."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, inner in items for place in ((*above, key), *places_of(inner, *above, key))]


NEW = ("error", "delta", "tool_calls", "function_call", "reasoning_content", "reasoning", "audio")


@pytest.mark.parametrize("other", OTHERS, ids=repr)
def test_what_is_read_in_one_pass_is_read_alike_in_steps(other: Any) -> None:
    """Whatever value another one takes the place of, is added as, or stands instead of."""
    places = [*places_of(TEXT_ANSWER), ("error",), *(("choices", 0, name) for name in NEW)]
    places += [("choices", 0, "message", name) for name in NEW]
    for *above, last in places:
        changed = orjson.loads(orjson.dumps(TEXT_ANSWER))
        around = changed
        for key in above:
            around = around[key]
        around[last] = other
        try:
            data = orjson.dumps(changed)
        except TypeError:  # a number that JSON of this library does not have
            data = json.dumps(changed).encode()
        found = read_text_answer(data)
        assert found is None or found == read_delta(data), (above, last)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"choices":[]}', b'{"id":"\xff","choices":[{"index":0}]}'])
def test_what_is_no_text_answer_is_left_to_the_full_reader(data: bytes) -> None:
    assert read_text_answer(data) is None
    broken = orjson.dumps(TEXT_ANSWER).replace(b"assistant", b"assist\xff")
    assert read_text_answer(broken) is None


EVENTS = (
    {"choices": [{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}]},
    {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    {"choices": [{"index": 0, "delta": {"content": None}, "finish_reason": "length"}], "usage": {"prompt_tokens": 3}},
    {"choices": [{"index": 1, "delta": {"content": "é", "refusal": ""}, "finish_reason": ""}]},
)
BODY = ("role", "content", "refusal", "tool_calls", "function_call", "reasoning_content", "reasoning", "audio")


@pytest.mark.parametrize("event", EVENTS)
def test_an_event_read_in_the_short_way_is_read_alike_in_the_long_one(event: Any, monkeypatch: Any) -> None:
    """As it is, and whatever stands in one of its places."""
    places = [("choices", 0, name) for name in ("index", "delta", "message", "finish_reason")]
    places += [("choices", 0, "delta", name) for name in BODY]
    changed = [orjson.dumps(event)]
    for *above, last in places:
        for other in OTHERS:
            made = around = orjson.loads(orjson.dumps(event))
            for key in above:
                around = around[key]
            around[last] = other
            changed.append(json.dumps(made).encode())

    def read(data: bytes) -> Any:
        try:
            return read_event(data, ChunkState())
        except AttemptFailed as fault:
            return type(fault), fault.detail

    short = [read(data) for data in changed]
    monkeypatch.setattr("gateway.upstreams.parse_response._text_of_one_choice", lambda *_, **__: None)
    assert short == [read(data) for data in changed]
