"""Parsing of responses, whole and streamed, valid and invalid."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import AttemptFailed, DeadlineExceeded, UpstreamError
from gateway.types import Piece, ToolCall, Usage
from gateway.upstreams.parse_response import read_delta, with_texts


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
    calls = (ToolCall(index=0, name="f", arguments="{}"), ToolCall(index=1, name="g", arguments="[]"))
    assert delta.pieces == (
        Piece(index=0, tool_calls=calls, finish_reason="tool_calls"),
        Piece(index=1, text="hi", finish_reason="stop"),
    )
    assert delta.usage == Usage(input_tokens=1, output_tokens=2, confidence=0.5, converged=True)


def test_a_chunk_is_read_with_its_fragments() -> None:
    fragment = {"index": 2, "function": {"arguments": '{"a'}}
    chunk = {"choices": [{"index": 0, "delta": {"content": "x", "tool_calls": [fragment]}}], "usage": None}
    delta = read_delta(orjson.dumps(chunk))
    assert delta.pieces == (Piece(index=0, text="x", tool_calls=(ToolCall(index=2, arguments='{"a'),)),)
    assert delta.usage is None


def test_an_error_inside_a_stream_keeps_its_meaning() -> None:
    with pytest.raises(UpstreamError):
        read_delta(b'{"error": {"message": "boom", "code": null}}')
    with pytest.raises(DeadlineExceeded):
        read_delta(b'{"error": {"message": "late", "code": "deadline_exceeded"}}')
    with pytest.raises(UpstreamError):
        read_delta(b'{"error": "boom"}')


def test_a_null_error_is_none() -> None:
    assert read_delta(b'{"error": null, "choices": []}').pieces == ()


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"choices": 1}', b"\xff", b'{"choices": [{"delta": "x"}]}'])
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
    (said,) = with_texts([delta], {(0, None): "new", (0, 0): "{}"})
    assert said.pieces[0].text == "new"
    assert said.pieces[0].tool_calls[0].arguments == "{}"
    assert orjson.loads(said.data)["id"] == "x"
    assert orjson.loads(said.data)["choices"][0]["mine"] == 1


def test_the_text_of_a_stream_can_be_replaced() -> None:
    parts: list[Any] = [{"role": "assistant"}, {"content": "a"}, {"content": "b"}, {}]
    deltas = [read_delta(orjson.dumps({"choices": [{"index": 0, "delta": part}]})) for part in parts]
    deltas.append(read_delta(b'{"choices": [], "usage": {"prompt_tokens": 1}}'))
    said = with_texts(deltas, {(0, None): "abc", (1, None): "not here"})
    assert [piece.text for delta in said for piece in delta.pieces] == ["", "abc", "", ""]
    assert said[4] is deltas[4]
    assert b"assistant" in said[0].data


@pytest.mark.parametrize("tokens", [-1, 1 << 41, 10**30])
@pytest.mark.parametrize("confidence", [-0.1, 7])
def test_impossible_usage_is_ignored(tokens: int, confidence: float) -> None:
    told = f'"prompt_tokens":{tokens},"completion_tokens":{tokens},"diffusion":{{"confidence":{confidence}}}'
    data = f'{{"choices":[],"usage":{{{told}}}}}'.encode()
    assert read_delta(data).usage == Usage()
    assert read_delta(data).data is data
