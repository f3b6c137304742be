"""Chat completions take the form of Anthropic's messages, whole and as events."""

from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.beyond_chat import BeyondChat, MessagesOptions
from gateway.types import Query
from gateway.web.apis.message_answer import MessageWriter

USAGE = {"prompt_tokens": 30, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 20}}


def writer(**options: Any) -> MessageWriter:
    beyond = BeyondChat(path="/v1/messages", options=MessagesOptions(**options))
    query = Query(
        request_id="req_1", model="claude-x", body=b"{}", received_s=0.0, prompt_chars=400, beyond_chat=beyond
    )
    return MessageWriter(query, 7.9)


def whole(message: dict[str, Any], reason: str | None = "stop", *, made: Any = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": reason, **more}
    document = {"id": "chatcmpl-1", "model": "m", "choices": [choice], "usage": USAGE}
    return dict(orjson.loads((made or writer()).whole(orjson.dumps(document))))


def events_of(deltas: list[dict[str, Any]], reason: str | None = "stop", **options: Any) -> list[dict[str, Any]]:
    made, parts = writer(**options), list[bytes]()
    choices: list[dict[str, Any]] = [{"index": 0, "delta": delta} for delta in deltas]
    for choice in [*choices, {"index": 0, "delta": {}, "finish_reason": reason}]:
        parts += made.chunks(orjson.dumps({"id": "chatcmpl-1", "model": "m", "choices": [choice]}))
    parts += made.chunks(orjson.dumps({"choices": [], "usage": USAGE}))
    return [orjson.loads(part) for part in parts + made.end()]


def accumulated(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The message, put together as clients do; fails where they would."""
    message: dict[str, Any] = {}
    opened: int | None = None
    for event in events:
        match event["type"]:
            case "message_start":
                assert not message
                message = event["message"]
            case "content_block_start":
                assert opened is None
                opened = event["index"]
                assert opened == len(message["content"])
                message["content"].append(event["content_block"])
            case "content_block_delta":
                assert event["index"] == opened
                block, delta = message["content"][opened], event["delta"]
                kind = delta["type"].removesuffix("_delta")
                if kind == "input_json":
                    block["json"] = block.get("json", "") + delta["partial_json"]
                else:
                    block[kind] += delta[kind]
            case "content_block_stop":
                assert event["index"] == opened
                if "json" in (block := message["content"][opened or 0]):
                    block["input"] = orjson.loads(block.pop("json"))
                opened = None
            case "message_delta":
                message.update(event["delta"])
                message["usage"] |= event["usage"]
    assert opened is None
    assert events[-1]["type"] == "message_stop"
    return message


def call(name: str = "f", arguments: str = "{}", **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}, **more}


@pytest.mark.parametrize(
    ("message", "reason", "told"),
    [
        ({"content": "a"}, "stop", "end_turn"),
        ({"content": "a"}, None, "end_turn"),
        ({"content": "a"}, "length", "max_tokens"),
        ({"content": "a"}, "content_filter", "refusal"),
        ({"content": None, "refusal": "No."}, "stop", "refusal"),
        ({"content": None, "tool_calls": [call()]}, "tool_calls", "tool_use"),
        ({"content": None, "tool_calls": [call()]}, "stop", "tool_use"),
        ({"content": None, "tool_calls": [call()]}, "length", "max_tokens"),
        ({"content": None, "function_call": {"name": "f", "arguments": "{}"}}, "function_call", "tool_use"),
    ],
)
def test_the_reason_why_an_answer_ended_is_anthropic_s(message: dict[str, Any], reason: str | None, told: str) -> None:
    assert whole(message, reason)["stop_reason"] == told
    assert accumulated(events_of([message], reason))["stop_reason"] == told


@pytest.mark.parametrize("more", [{"stop_reason": "END"}, {"matched_stop": "END"}])
def test_a_stop_string_is_named_if_it_is_one_of_the_request_s(more: dict[str, Any]) -> None:
    named = whole({"content": "a"}, made=writer(stops=frozenset({"END"})), **more)
    assert (named["stop_reason"], named["stop_sequence"]) == ("stop_sequence", "END")
    other = whole({"content": "a"}, made=writer(stops=frozenset({"FIN"})), **more)
    assert (other["stop_reason"], other["stop_sequence"]) == ("end_turn", None)


def test_tokens_from_a_cache_are_counted_apart() -> None:
    expected = {
        "input_tokens": 10,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 20,
        "output_tokens": 4,
    }
    assert whole({"content": "a"})["usage"] == expected
    assert events_of([{"content": "a"}])[-2]["usage"] == expected


def test_counts_that_the_target_does_not_report_are_estimated() -> None:
    made = writer()
    start, _, *_ = map(orjson.loads, made.chunks(orjson.dumps({"choices": [{"delta": {"content": "x" * 40}}]})))
    end, _ = map(orjson.loads, made.end()[-2:])
    assert start["message"]["usage"]["input_tokens"] == 100
    assert (end["usage"]["input_tokens"], end["usage"]["output_tokens"]) == (100, 10)


def test_reasoning_is_a_block_before_the_text_unless_the_request_disabled_it() -> None:
    message = {"reasoning_content": "Hm.", "reasoning": "Hm.", "content": "Yes."}
    assert [block["type"] for block in whole(message)["content"]] == ["thinking", "text"]
    assert [block["type"] for block in whole(message, made=writer(thinking=False))["content"]] == ["text"]
    told = accumulated(events_of([{"reasoning": "H"}, {"reasoning": "m."}, {"content": "Yes."}]))
    assert told["content"][0] == {"type": "thinking", "thinking": "Hm.", "signature": "req_1"}
    assert accumulated(events_of([message], thinking=False))["content"] == [{"type": "text", "text": "Yes."}]


@pytest.mark.parametrize("arguments", ["", '{"a": 1', "[1]"])
def test_an_input_is_an_object_whatever_the_model_wrote(arguments: str) -> None:
    (block,) = whole({"content": None, "tool_calls": [call(arguments=arguments)]}, "length")["content"]
    assert block["input"] == {}
    assert block["id"] == "toolu_1_0"


def test_an_answer_without_content_is_a_message_without_blocks() -> None:
    assert whole({"content": None}, "length")["content"] == []
    assert accumulated(events_of([], "length"))["content"] == []
    assert [orjson.loads(each)["type"] for each in writer().end()] == [
        *("message_start", "ping"),
        *("message_delta", "message_stop"),
    ]


ARGUMENTS = st.dictionaries(st.text("ab", max_size=2), st.text(max_size=4), max_size=2).map(
    lambda given: orjson.dumps(given).decode()
)


def pieces(text: str, cuts: list[int]) -> list[str]:
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[start:end] for start, end in pairwise(places)]


@given(st.lists(ARGUMENTS, max_size=4), st.text(max_size=6), st.text(max_size=6), st.data())
def test_a_stream_says_what_the_whole_answer_says(calls: list[str], thought: str, text: str, data: Any) -> None:
    """However the fragments of the calls alternate."""
    made = [call(f"f{number}", arguments, id=f"c{number}") for number, arguments in enumerate(calls)]
    message = {"reasoning_content": thought, "content": text, "tool_calls": made}
    queues = []
    for number, each in enumerate(made):
        head = {"index": number, "id": each["id"], "function": {"name": f"f{number}", "arguments": ""}}
        cuts = data.draw(st.lists(st.integers(0, 99), max_size=3))
        queues.append(
            [head, *({"index": number, "function": {"arguments": part}} for part in pieces(calls[number], cuts))]
        )
    deltas: list[dict[str, Any]] = [{"reasoning_content": each} for each in thought] + [{"content": c} for c in text]
    while any(queues):
        queue = data.draw(st.sampled_from([each for each in queues if each]))
        deltas.append({"tool_calls": [queue.pop(0)]})
    told = accumulated(events_of(deltas, "tool_calls" if made else "stop"))
    expected = whole(message, "tool_calls" if made else "stop")
    expected["content"].sort(key=lambda block: str(block.get("id", "")))
    told["content"].sort(key=lambda block: str(block.get("id", "")))
    assert told == expected


def test_text_behind_a_call_is_kept() -> None:
    told = accumulated(events_of([{"tool_calls": [{"index": 0, **call()}]}, {"content": "Then."}], "tool_calls"))
    assert [block["type"] for block in told["content"]] == ["tool_use", "text"]
