"""Chat completions take the form of responses, and a stream reports every item completely and in order."""

from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from gateway.beyond_chat import BeyondChat
from gateway.errors import InvalidOutput, RateLimitExceeded
from gateway.types import Query
from gateway.web.apis.responses.answer import ResponseWriter

TEXT = st.text(max_size=12)


def writer() -> ResponseWriter:
    return ResponseWriter(Query(request_id="req_1", model="auto", body=b"{}", received_s=0.0), 7.9)


def written(message: dict[str, Any], reason: str = "stop", **head: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": message, "finish_reason": reason, "logprobs": head.pop("logprobs", None)}
    document = {"id": "chatcmpl-1", "object": "chat.completion", "model": "m", "choices": [choice], **head}
    return dict(orjson.loads(writer().whole(orjson.dumps(document))))


def read(events: bytes) -> list[dict[str, Any]]:
    found = []
    for event in events.split(b"\n\n")[:-1]:
        name, data = event.split(b"\n")
        found.append(orjson.loads(data.removeprefix(b"data: ")))
        assert name == b"event: " + found[-1]["type"].encode()
    return found


def streamed(deltas: list[dict[str, Any]], reason: str = "stop", usage: Any = None) -> list[dict[str, Any]]:
    made = writer()
    choices = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    choices.append({"index": 0, "delta": {}, "finish_reason": reason})
    chunks: list[dict[str, Any]] = [{"model": "m", "choices": [choice]} for choice in choices]
    events = [made.events(orjson.dumps(chunk)) for chunk in [*chunks, {"choices": [], "usage": usage}]]
    return read(b"".join(events) + made.end())


def call(name: str, arguments: str, number: int) -> dict[str, Any]:
    return {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": arguments}}


@st.composite
def answers(draw: st.DrawFn) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A message, and deltas with the same content."""
    message: dict[str, Any] = {"role": "assistant", "content": None}
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    for name in ("reasoning_content", "content", "refusal"):
        pieces = draw(st.lists(TEXT, max_size=4))
        if pieces:
            message[name] = "".join(pieces)
            deltas += [{name: piece} for piece in pieces]
    calls = draw(st.lists(st.tuples(st.sampled_from(["f", "g"]), st.lists(TEXT, max_size=3)), max_size=3))
    if calls:
        message["tool_calls"] = [call(name, "".join(texts), number) for number, (name, texts) in enumerate(calls)]
    for number, (name, texts) in enumerate(calls):
        deltas.append({"tool_calls": [{**call(name, "", number), "index": number}]})
        deltas += [{"tool_calls": [{"index": number, "function": {"arguments": text}}]} for text in texts]
    return message, deltas


@given(answers(), st.sampled_from(["stop", "length"]))
def test_a_stream_ends_with_the_response_that_is_sent_whole(answer: Any, reason: str) -> None:
    message, deltas = answer
    whole, last = written(message, reason), streamed(deltas, reason)[-1]
    assert last["type"] == {"stop": "response.completed", "length": "response.incomplete"}[reason]
    assert last["response"] == whole
    assert whole["completed_at"] == {"stop": 7, "length": None}[reason]


@given(answers())
def test_the_deltas_of_a_stream_add_up_to_its_items(answer: Any) -> None:
    events = streamed(answer[1])
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    items: dict[int, dict[str, Any]] = {}
    texts: dict[tuple[str, int], str] = {}
    for event in events[2:-1]:
        kind, index = event["type"], event["output_index"]
        if kind == "response.output_item.added":
            assert (index, event["item"]["status"]) == (len(items), "in_progress")
            items[index] = event["item"]
            continue
        place = (items[index]["id"], event.get("content_index", 0))
        if kind == "response.content_part.added":
            assert place not in texts
            texts[place] = ""
        elif kind.endswith(".delta"):
            assert event["item_id"] == items[index]["id"]
            texts[place] = texts.get(place, "") + event["delta"]
        elif kind == "response.output_item.done":
            items[index] = event["item"]
    assert list(items.values()) == events[-1]["response"]["output"]
    for item in items.values():
        parts = item.get("content") or [{"arguments": item.get("arguments")}]
        for number, part in enumerate(parts):
            assert texts.get((item["id"], number), "") == part.get("text", part.get("refusal", part.get("arguments")))


def test_a_response_has_the_fields_that_clients_require() -> None:
    made = written({"role": "assistant", "content": "a"}, usage={"prompt_tokens": 3, "completion_tokens": 2})
    assert (made["id"], made["object"], made["created_at"], made["status"]) == ("resp_1", "response", 7, "completed")
    assert (made["tool_choice"], made["parallel_tool_calls"], made["store"]) == ("auto", True, False)
    assert made["output"] == [
        {
            "type": "message",
            "id": "msg_1_0",
            "status": "completed",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "a", "annotations": [], "logprobs": []}],
        }
    ]
    assert made["usage"] == {
        "input_tokens": 3,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 5,
    }


def test_a_worker_s_confidence_stays_in_the_usage() -> None:
    diffusion = {"confidence": 0.9, "converged": True}
    assert written({"content": "a"}, usage={"diffusion": diffusion})["usage"]["diffusion"] == diffusion


def test_calls_of_custom_tools_have_an_input() -> None:
    custom = {"index": 0, "id": "c", "type": "custom", "custom": {"name": "sh", "input": "ls"}}
    events = streamed([{"tool_calls": [custom]}])
    assert [event["type"] for event in events[2:-1]] == [
        "response.output_item.added",
        "response.custom_tool_call_input.delta",
        "response.custom_tool_call_input.done",
        "response.output_item.done",
    ]
    item = {"type": "custom_tool_call", "call_id": "c", "name": "sh", "input": "ls", "status": "completed"}
    assert events[-1]["response"]["output"] == [{**item, "id": "ctc_1_0"}]
    assert written({"tool_calls": [custom]})["output"] == events[-1]["response"]["output"]


def test_a_call_of_a_namespace_s_tool_is_named_by_both() -> None:
    space = {"type": "namespace", "name": "files", "description": "d", "tools": [{"type": "function", "name": "f"}]}
    beyond = BeyondChat(repeated={"tools": [space]})
    query = Query(request_id="req_1", model="auto", body=b"{}", received_s=0.0, beyond_chat=beyond)
    choice = {"message": {"tool_calls": [call("files__f", "{}", 0), call("f", "{}", 1)]}, "finish_reason": "tool_calls"}
    made = orjson.loads(ResponseWriter(query, 7.9).whole(orjson.dumps({"choices": [choice]})))
    assert [(item.get("namespace"), item["name"]) for item in made["output"]] == [("files", "f"), (None, "f")]


def test_a_call_begins_when_its_name_is_known_and_gets_an_id_if_it_has_none() -> None:
    fragments = [{"arguments": "{"}, {"name": "f", "arguments": "}"}, {"arguments": " "}]
    events = streamed([{"tool_calls": [{"index": 0, "function": function}]} for function in fragments])
    assert [event["delta"] for event in events if event["type"].endswith("arguments.delta")] == ["{}", " "]
    (item,) = events[-1]["response"]["output"]
    assert (item["name"], item["arguments"], bool(item["call_id"])) == ("f", "{} ", True)


def test_interleaved_fragments_of_calls_belong_to_their_own_items() -> None:
    fragments = [(0, "f", "a"), (1, "g", "b"), (0, None, "c"), (1, None, "d")]
    calls = [{"index": i, "function": {"name": name, "arguments": text}} for i, name, text in fragments]
    output = streamed([{"tool_calls": [each]} for each in calls])[-1]["response"]["output"]
    assert [(item["name"], item["arguments"]) for item in output] == [("f", "ac"), ("g", "bd")]


def test_probabilities_and_citations_are_part_of_the_text() -> None:
    record = {"token": "a", "logprob": -0.5, "bytes": None, "top_logprobs": [{"token": "b", "logprob": -1}]}
    citation = {"url": "u", "title": "t", "start_index": 0, "end_index": 1}
    message = {"content": "a", "annotations": [{"type": "url_citation", "url_citation": citation}]}
    (part,) = written(message, logprobs={"content": [record]})["output"][0]["content"]
    top = [{"token": "b", "logprob": -1, "bytes": []}]
    assert part["logprobs"] == [{"token": "a", "logprob": -0.5, "bytes": [], "top_logprobs": top}]
    assert part["annotations"] == [{"type": "url_citation", **citation}]


def test_an_answer_without_content_is_an_empty_message() -> None:
    assert [part["text"] for part in written({"content": None})["output"][0]["content"]] == [""]


def test_a_filtered_answer_is_incomplete() -> None:
    made = written({"content": "a"}, "content_filter")
    assert (made["status"], made["incomplete_details"]) == ("incomplete", {"reason": "content_filter"})


def test_a_stream_that_fails_has_begun_and_ends_with_the_error() -> None:
    made = writer()
    failed = made.failed(RateLimitExceeded("Too many.", param="model"))
    events = read(failed)
    assert [event["type"] for event in events] == [
        "response.created",
        "response.in_progress",
        "response.failed",
        "error",
    ]
    assert events[2]["response"]["error"] == {"code": "rate_limit_exceeded", "message": "Too many."}
    assert (events[3]["code"], events[3]["param"]) == ("rate_limit_exceeded", "model")


def test_what_was_streamed_before_a_failure_stays_in_the_response_as_incomplete() -> None:
    made = writer()
    begun = made.events(orjson.dumps({"choices": [{"index": 0, "delta": {"content": "a"}}]}))
    events = read(begun + made.failed(InvalidOutput("No.")))
    (item,) = events[-2]["response"]["output"]
    assert (item["status"], item["content"][0]["text"]) == ("incomplete", "a")
    assert events[-1]["error"]["code"] == "invalid_output"
