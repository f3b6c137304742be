"""Conversion between whole completions and the chunks of a stream."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstreams.answers import lenient
from gateway.upstreams.answers.reframe import ChunkMerger, as_chunks


def merged(*chunks: dict[str, Any]) -> dict[str, Any]:
    merger = ChunkMerger()
    for chunk in chunks:
        merger.add(json.dumps(chunk).encode())
    whole: dict[str, Any] = json.loads(merger.whole())
    return whole


def chunk(delta: Any, finish: Any = None, **choice: Any) -> dict[str, Any]:
    return {"id": "c", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish, **choice}]}


def test_texts_are_joined_and_heads_and_usage_are_kept() -> None:
    whole = merged(
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": "he", "reasoning_content": "h"}),
        chunk({"content": "llo", "reasoning_content": "m"}, logprobs={"content": [1], "refusal": None}),
        chunk({}, "stop", logprobs={"content": [2, 3]}),
        {"choices": [], "usage": {"prompt_tokens": 3}},
    )
    message = {"role": "assistant", "content": "hello", "reasoning_content": "hm"}
    choice = {
        "index": 0,
        "message": message,
        "finish_reason": "stop",
        "logprobs": {"content": [1, 2, 3], "refusal": None},
    }
    assert whole == {
        "id": "c",
        "model": "m",
        "object": "chat.completion",
        "choices": [choice],
        "usage": {"prompt_tokens": 3},
    }


def test_calls_are_joined_by_their_index_in_whatever_order_they_begin() -> None:
    def call(index: int, **more: Any) -> dict[str, Any]:
        return chunk({"tool_calls": [{"index": index, **more}]})

    whole = merged(
        call(1, id="b", function={"name": "g", "arguments": "["}),
        call(0, id="a", function={"name": "f", "arguments": "{"}),
        call(1, function={"name": None, "arguments": "]"}),
        call(0, id=None, function={"arguments": "}"}),
        call(2, id="c", type="custom", custom={"name": "h", "input": "x"}),
        call(2, custom={"input": "y"}),
        chunk({"function_call": {"name": "old", "arguments": '{"a"'}}),
        chunk({"function_call": {"arguments": ":1}"}}, "tool_calls"),
    )
    message = whole["choices"][0]["message"]
    assert message["tool_calls"] == [
        {"type": "function", "id": "a", "function": {"name": "f", "arguments": "{}"}},
        {"type": "function", "id": "b", "function": {"name": "g", "arguments": "[]"}},
        {"type": "custom", "id": "c", "custom": {"name": "h", "input": "xy"}},
    ]
    assert message["function_call"] == {"name": "old", "arguments": '{"a":1}'}


@pytest.mark.parametrize("index", [None, -1, "x", True, [], {}])
def test_an_impossible_index_is_that_of_the_position(index: Any) -> None:
    call = {"index": index, "function": {"name": "f", "arguments": "{}"}}
    whole = merged(chunk({"content": "a", "tool_calls": [call]}, index=index), chunk({"content": "b"}, index=index))
    [choice] = whole["choices"]
    assert (choice["index"], choice["message"]["content"]) == (0, "ab")
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}
    [first, last] = map(json.loads, as_chunks(json.dumps({"choices": [{**choice, "index": index}]}).encode()))
    assert (first["choices"][0]["index"], last["choices"][0]["index"]) == (0, 0)


def test_the_delta_of_a_chunk_and_the_message_of_a_whole_completion_count() -> None:
    """Some servers repeat the whole text so far as `message` of each chunk."""
    both = [chunk({"content": text}, message={"content": so_far}) for text, so_far in (("a", "a"), ("b", "ab"))]
    last = chunk({}, "stop", message={"content": "ab"})
    assert merged(*both, last)["choices"][0]["message"]["content"] == "ab"
    for delta in ({}, {"content": ""}, None):
        whole = {"choices": [{"index": 0, "delta": delta, "message": {"content": "ab"}}]}
        first = json.loads(as_chunks(json.dumps(whole).encode())[0])
        assert first["choices"][0]["delta"]["content"] == "ab"
    only = {"choices": [{"index": 0, "delta": {"content": "ab"}}]}
    assert json.loads(as_chunks(json.dumps(only).encode())[0])["choices"][0]["delta"]["content"] == "ab"


class Counted(str):
    """A text that counts how many characters are copied when it is joined to another one by `+`."""

    copied = 0

    def __add__(self, other: str) -> "Counted":
        Counted.copied += len(self) + len(other)
        return Counted(str(self) + str(other))

    def __radd__(self, other: str) -> "Counted":
        Counted.copied += len(self) + len(other)
        return Counted(str(other) + str(self))


def test_what_is_copied_grows_with_the_text_and_not_with_its_square(monkeypatch: pytest.MonkeyPatch) -> None:
    function = {"name": Counted("f"), "arguments": Counted("x")}
    delta = {
        "content": Counted("x"),
        "reasoning": Counted("x"),
        "refusal": Counted("x"),
        "function_call": function,
        "tool_calls": [{"index": 0, "function": function}],
    }
    monkeypatch.setattr(lenient, "load", lambda _: chunk(delta))
    merger = ChunkMerger()
    for _ in range(1000):
        merger.add(b"")
    monkeypatch.undo()
    message = json.loads(merger.whole())["choices"][0]["message"]
    assert message["content"] == message["tool_calls"][0]["function"]["arguments"] == "x" * 1000
    assert Counted.copied <= 5 * 1000


def test_log_probabilities_are_collected_in_one_list() -> None:
    merger = ChunkMerger()
    collected = []
    for number in range(3):
        merger.add(json.dumps(chunk({}, logprobs={"content": [number]})).encode())
        collected.append(merger._choices[0]._logprobs["content"])  # type: ignore[index]
    assert collected[0] is collected[2] == [0, 1, 2]


TEXTS = st.lists(st.text(max_size=5), max_size=5)


@given(contents=TEXTS, arguments=TEXTS, finish=st.sampled_from(["stop", "length"]))
def test_a_completion_survives_both_conversions(contents: list[str], arguments: list[str], finish: str) -> None:
    chunks = [chunk({"content": text}) for text in contents]
    chunks += [
        chunk({"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": text}}]}) for text in arguments
    ]
    whole = merged(*chunks, chunk({}, finish))
    again = merged(*map(json.loads, as_chunks(json.dumps(whole).encode())))
    assert again == whole
