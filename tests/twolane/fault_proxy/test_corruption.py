"""Corruption makes JSON invalid, and gives the same text whole and streamed."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twolane.fault_proxy.corruption import StreamCorrupter, corrupt_completion

JSON_TEXTS = st.recursive(
    st.none() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
).filter(lambda value: isinstance(value, dict | list))


def whole(text: str) -> bytes:
    return json.dumps({"choices": [{"index": 0, "message": {"content": text}}]}).encode()


def corrupted_whole(text: str) -> str:
    content: str = json.loads(corrupt_completion(whole(text)))["choices"][0]["message"]["content"]
    return content


def corrupted_stream(pieces: list[str], size: int) -> str:
    events = [{"choices": [{"index": 0, "delta": {"content": piece}}]} for piece in pieces]
    wire = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events) + b"data: [DONE]\n\n"
    corrupter = StreamCorrupter()
    out = b"".join(corrupter.feed(wire[start : start + size]) for start in range(0, len(wire), size))
    chunks = [json.loads(line[6:]) for line in out.decode().splitlines() if line.startswith("data: {")]
    return "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks)


@given(value=JSON_TEXTS, cuts=st.lists(st.integers(0, 40), max_size=4), size=st.integers(1, 200))
def test_json_becomes_invalid_the_same_way_whole_and_streamed(value: Any, cuts: list[int], size: int) -> None:
    text = json.dumps(value)
    points = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    pieces = [text[start:end] for start, end in itertools.pairwise(points)]
    corrupted = corrupted_whole(text)
    assert corrupted == corrupted_stream(pieces, size) == text[:-1]
    with pytest.raises(json.JSONDecodeError):
        json.loads(corrupted)


@pytest.mark.parametrize("body", [b"not json", b"[]", b'{"choices":7}', b'{"choices":[{"message":{"content":null}}]}'])
def test_a_body_without_text_is_unchanged(body: bytes) -> None:
    assert corrupt_completion(body) == body


def test_plain_text_has_no_json_to_corrupt() -> None:
    assert corrupted_whole("fix broken token in api") == "fix broken token in api"


def test_heartbeats_and_other_event_lines_are_unchanged() -> None:
    assert StreamCorrupter().feed(b": ping\n\nevent: error\ndata: {}\n\n") == b": ping\n\nevent: error\ndata: {}\n\n"
