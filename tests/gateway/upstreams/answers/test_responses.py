"""Responses that targets send are read as the chat completions with the same content, whole and as a stream."""

import json
import math
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.enums import TargetApi
from gateway.errors import AttemptFailed
from gateway.types import Delta, Query
from gateway.upstreams.answers.reader import AnswerReader
from gateway.upstreams.logprobs import confidence_of, without_logprobs
from gateway.web.apis.responses.answer import ResponseWriter
from tests.gateway.web.apis.responses.test_answer import answers

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def writer() -> ResponseWriter:
    return ResponseWriter(Query(request_id="req_1", model="auto", body=b"{}", received_s=0.0), 7.9)


def read(data: bytes, *, stream: bool) -> list[Delta]:
    reader = AnswerReader(stream=stream, max_bytes=1 << 20, api=TargetApi.RESPONSES)
    return [*reader.feed(data), *reader.close()]


def stream_of(*events: dict[str, Any]) -> bytes:
    return b"".join(b"event: %s\ndata: %s\n\n" % (each["type"].encode(), json.dumps(each).encode()) for each in events)


def content(deltas: list[Delta]) -> tuple[Any, ...]:
    """What the pipeline sees: the texts, the calls with their arguments, the finish reason, the tokens."""
    pieces = [piece for delta in deltas if delta.data for piece in delta.pieces]
    calls: dict[int, list[str]] = {}
    for part in (part for piece in pieces for part in piece.tool_calls):
        known = calls.setdefault(part.index, ["", "", ""])
        known[0] += part.id
        known[1] += part.name
        known[2] += part.arguments
    texts = ("".join(piece.text for piece in pieces), "".join(piece.refusal for piece in pieces))
    reasons = [piece.finish_reason for piece in pieces if piece.finish_reason]
    tokens = [(delta.usage.input_tokens, delta.usage.output_tokens) for delta in deltas if delta.usage]
    return texts, calls, reasons, tokens


@given(answers(), st.sampled_from(["stop", "length"]))
def test_what_a_response_says_is_read_back(answer: Any, reason: str) -> None:
    message, parts = answer
    ends = "length" if reason == "length" else "tool_calls" if message.get("tool_calls") else "stop"
    calls = {
        number: [each["id"], *each["function"].values()] for number, each in enumerate(message.get("tool_calls", ()))
    }
    expected = ((message.get("content") or "", message.get("refusal") or ""), calls, [ends], [(3, 2)])
    choice = {"index": 0, "message": message, "finish_reason": reason}
    whole = writer().whole(orjson.dumps({"choices": [choice], "usage": USAGE}))
    assert content(read(whole, stream=False)) == expected
    made = writer()
    chunks: list[Any] = [{"choices": [{"index": 0, "delta": part}]} for part in parts]
    chunks += [{"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}, {"choices": [], "usage": USAGE}]
    events = b"".join(made.events(orjson.dumps(chunk)) for chunk in chunks) + made.end()
    deltas = read(events, stream=True)
    assert content(deltas) == expected
    sent = [orjson.loads(line[6:]) for line in events.split(b"\n") if line.startswith(b"data: ")]
    assert [orjson.loads(delta.original) for delta in deltas] == sent
    assert content(read(events, stream=False)) == expected  # a stream instead of a whole answer
    assert content(read(whole, stream=True)) == expected


def test_texts_and_arguments_without_fragments_are_read_from_the_events_that_repeat_them() -> None:
    done = {"output_index": 0, "content_index": 0, "item_id": "m"}
    item = {"type": "function_call", "id": "f", "call_id": "c", "name": "g", "arguments": ""}
    end = {"type": "response.completed", "response": {"status": "completed", "output": []}}
    deltas = read(
        stream_of(
            {"type": "response.output_text.done", "text": "Hi", **done},
            {"type": "response.output_item.added", "output_index": 1, "item": item},
            {"type": "response.function_call_arguments.done", "output_index": 1, "arguments": "{}"},
            end,
        ),
        stream=True,
    )
    assert content(deltas) == (("Hi", ""), {0: ["c", "g", "{}"]}, ["tool_calls"], [])


def test_a_stream_of_one_event_is_read_from_its_response() -> None:
    output = [
        {"type": "message", "content": [{"type": "output_text", "text": "Hi"}]},
        {"type": "custom_tool_call", "call_id": "c", "name": "g", "input": "x", "namespace": "n"},
    ]
    end = {"type": "response.completed", "response": {"status": "completed", "output": output}}
    assert content(read(stream_of(end), stream=True)) == (("Hi", ""), {0: ["c", "n__g", "x"]}, ["tool_calls"], [])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "answer",
    [
        {"status": "failed", "error": {"code": "rate_limit_exceeded", "message": "slow down"}, "output": []},
        {"status": "failed", "error": None, "output": []},
        {"status": "cancelled", "output": []},
    ],
)
def test_a_response_that_failed_is_an_error(answer: dict[str, Any], stream: bool) -> None:
    sent = stream_of({"type": "response.failed", "response": answer}) if stream else orjson.dumps(answer)
    with pytest.raises(AttemptFailed):
        read(sent, stream=stream)


@pytest.mark.parametrize(
    "answer", [b"{}", b'{"output": 5}', b'{"object": "response"}', b"[]", b'"x"', b'{"choices": 5}']
)
def test_what_is_no_response_is_an_error(answer: bytes) -> None:
    with pytest.raises(AttemptFailed):
        read(answer, stream=False)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
NAMES = "item response output_index content_index delta text arguments logprobs part call_id name output status".split()
KINDS = [
    f"response.{name}"
    for name in "created output_item.added output_text.delta output_text.done function_call_arguments.delta"
    " function_call_arguments.done completed incomplete".split()
]
FIELDS = st.dictionaries(st.sampled_from([*NAMES, "usage", "type", "content", "error"]), JSON, max_size=5)
OBJECTS = st.dictionaries(st.sampled_from(NAMES), JSON | FIELDS | st.lists(FIELDS, max_size=2), max_size=5)


@given(st.lists(st.builds(lambda kind, fields: {**fields, "type": kind}, st.sampled_from(KINDS), OBJECTS), max_size=6))
def test_an_odd_stream_is_read_or_is_the_target_s_error(events: list[dict[str, Any]]) -> None:
    try:
        deltas = read(stream_of(*events), stream=True)
    except AttemptFailed:
        return
    made = writer()
    passed = b"".join(made.events(delta.data, delta.original) for delta in deltas) + made.end()
    assert passed.count(b"\n\n") == passed.count(b"event: ")


def test_a_stream_that_ends_without_its_last_event_is_written_with_one() -> None:
    item = {"type": "message", "id": "m", "content": []}
    begun = {"type": "response.created", "response": {"id": "theirs", "status": "in_progress", "output": []}}
    events = stream_of(begun, {"type": "response.output_item.done", "output_index": 0, "item": item})
    made = writer()
    passed = [made.events(delta.data, delta.original) for delta in read(events + b"data: [DONE]\n\n", stream=True)]
    last = json.loads(made.end().partition(b"data: ")[2])
    assert (len(passed), last["type"], last["sequence_number"]) == (2, "response.completed", 2)
    assert (last["response"]["status"], last["response"]["output"]) == ("completed", [item])


@pytest.mark.parametrize("kind", [b"5", b"true", b"null", b"Infinity", b"[]", b"{}"])
def test_an_event_whose_type_is_no_text_is_left_out(kind: bytes) -> None:
    end = {"type": "response.completed", "response": {"status": "completed", "output": []}}
    made = writer()
    deltas = read(b'data: {"type": %s}\n\n' % kind + stream_of(end), stream=True)
    passed = b"".join(made.events(delta.data, delta.original) for delta in deltas) + made.end()
    assert passed.startswith(b"event: response.completed\n")


def test_a_type_cannot_add_a_line_to_the_stream() -> None:
    end = {"type": "response.completed", "response": {"status": "completed", "output": []}}
    odd = b'data: {"type": "x\\ndata: y", "choices": []}\n\n'
    deltas = read(odd + stream_of(end), stream=True)
    assert all(b"\n" not in delta.original for delta in deltas)
    assert [orjson.loads(delta.original)["type"] for delta in deltas if delta.original] == ["response.completed"]


def sure_answer(logprobs: list[Any]) -> tuple[bytes, list[bytes]]:
    """A response with these log-probabilities, and its streams: with fragments, and with its end alone."""
    part = {"type": "output_text", "text": "hi", "annotations": [], "logprobs": logprobs}
    item = {"type": "message", "id": "m", "role": "assistant", "content": [part]}
    whole = {"object": "response", "status": "completed", "output": [item], "metadata": {"logprobs": "mine"}}
    place: dict[str, Any] = {"output_index": 0, "content_index": 0}
    end = {"type": "response.completed", "response": whole}
    fragments = [
        {"type": "response.output_text.delta", **place, "delta": "hi", "logprobs": logprobs},
        {"type": "response.output_text.done", **place, "text": "hi", "logprobs": logprobs},
        {"type": "response.content_part.done", **place, "part": part},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        end,
    ]
    return orjson.dumps(whole), [stream_of(*fragments), stream_of(end)]


def test_the_confidence_of_a_response_is_read_whole_and_from_its_stream() -> None:
    whole, streams = sure_answer([{"token": "hi", "logprob": -0.8, "bytes": [], "top_logprobs": []}])
    expected = pytest.approx(math.exp(-0.8))
    assert confidence_of(read(whole, stream=False)) == expected
    assert [confidence_of(read(stream, stream=True)) for stream in streams] == [expected, expected]
    assert confidence_of(read(sure_answer([])[0], stream=False)) is None


def test_the_original_of_a_response_has_no_log_probabilities_that_only_the_gateway_asked_for() -> None:
    whole, streams = sure_answer([{"token": "hi", "logprob": -0.8, "bytes": [], "top_logprobs": []}])
    plain, plain_streams = sure_answer([])
    for sent, expected, is_stream in ((whole, plain, False), *zip(streams, plain_streams, [True, True], strict=True)):
        found = [orjson.loads(each.original) for each in without_logprobs(read(sent, stream=is_stream))]
        assert found == [orjson.loads(each.original) for each in read(expected, stream=is_stream)]
