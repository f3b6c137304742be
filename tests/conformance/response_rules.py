"""Rules for responses, whole and as a stream of events."""

from typing import Any, Final

from tests.conformance.exchange import Exchange
from tests.conformance.rules import fits, is_call, is_int, must, whole

_TERMINAL: Final = ("response.completed", "response.incomplete", "response.failed")


@must("response")
def _(e: Exchange) -> bool:
    """A response has its id, object, time, model, status and error."""
    d = e.document
    named = d["id"].startswith("resp_") and d["object"] == "response" and isinstance(d["model"], str)
    return named and d["created_at"] > 0 and d["error"] is None and d["status"] in ("completed", "incomplete")


@must("response")
def _(e: Exchange) -> bool:
    """An answer that the token limit cut is incomplete and says why, and no other is."""
    if e.ask.body.get("max_output_tokens") == 1:
        return bool(e.document["status"] == "incomplete" and e.document["incomplete_details"]["reason"])
    return e.document["status"] == "completed" and e.document["incomplete_details"] is None


@must("response")
def _(e: Exchange) -> bool:
    """Output items have a type, a status and ids of their own."""
    ids = [item["id"] for item in e.document["output"]]
    statuses = [item["status"] in ("completed", "incomplete") for item in e.document["output"]]
    return len(ids) > 0 and len(set(ids)) == len(ids) and all(ids) and all(statuses)


@must("response")
def _(e: Exchange) -> bool:
    """A message is the assistant's, and its parts are texts with annotations, or refusals."""
    messages = [item for item in e.document["output"] if item["type"] == "message"]
    parts = [part for item in messages for part in item["content"]]
    texts = [isinstance(part["text"], str) and isinstance(part["annotations"], list) for part in parts]
    typed = all(part["type"] == "output_text" for part in parts)
    return all(texts) and typed and all(item["role"] == "assistant" and item["content"] for item in messages)


@must("response")
def _(e: Exchange) -> bool:
    """A call has a call_id, a name that was offered, and arguments that fit."""
    calls = [item for item in e.document["output"] if item["type"] == "function_call"]
    return bool(calls) is bool(e.ask.body.get("tools")) and all(call["call_id"] and is_call(call) for call in calls)


@must("response")
def _(e: Exchange) -> bool:
    """Usage of a response adds up, and has the details of both sides."""
    u = e.document["usage"]
    details = u["input_tokens_details"]["cached_tokens"], u["output_tokens_details"]["reasoning_tokens"]
    return all(map(is_int, details)) and u["input_tokens"] + u["output_tokens"] == u["total_tokens"] > 0


@must("response")
def _(e: Exchange) -> bool:
    """A response repeats what the request asked for."""
    d, asked = e.document, e.ask.body
    names = ("instructions", "max_output_tokens", "temperature", "metadata")
    typed = isinstance(d["tools"], list) and isinstance(d["parallel_tool_calls"], bool) and "tool_choice" in d
    given = all(d[name] == asked[name] for name in names if name in asked)
    return typed and given and [tool["name"] for tool in d["tools"]] == [t["name"] for t in asked.get("tools", ())]


@must("response")
def _(e: Exchange) -> bool:
    """A structured response fits its schema."""
    texts = [p["text"] for item in e.document["output"] for p in item.get("content", ())]
    return "text" not in e.ask.body or (bool(texts) and all(map(fits, texts)))


@must("response stream")
def _(e: Exchange) -> bool:
    """Every event is named by its type."""
    return [name for name, _ in e.frames] == [event["type"] for event in e.events]


@must("response stream")
def _(e: Exchange) -> bool:
    """Events are numbered from 0 without gaps."""
    return [event["sequence_number"] for event in e.events] == list(range(len(e.events)))


@must("response stream")
def _(e: Exchange) -> bool:
    """A stream begins with created and in_progress, and ends with one terminal event."""
    types = [event["type"] for event in e.events]
    begun = types[:2] == ["response.created", "response.in_progress"]
    return begun and [kind in _TERMINAL for kind in types] == [False] * (len(types) - 1) + [True]


@must("response stream")
def _(e: Exchange) -> bool:
    """All response objects of a stream have the same id and time, and are in progress until the last."""
    found = [event["response"] for event in e.events if "response" in event]
    heads = {(each["id"], each["created_at"], each["model"]) for each in found}
    statuses = [each["status"] for each in found[:-1]]
    return len(heads) == 1 and set(statuses) == {"in_progress"} and e.events[-1]["type"].endswith(found[-1]["status"])


@must("response stream")
def _(e: Exchange) -> bool:
    """Items are added and done once, in the order of the output, as the last event has them."""
    added = [(x["output_index"], x["item"]["id"]) for x in e.events if x["type"] == "response.output_item.added"]
    done = [(x["output_index"], x["item"]) for x in e.events if x["type"] == "response.output_item.done"]
    output = e.events[-1]["response"]["output"]
    return done == list(enumerate(output)) and added == [(index, item["id"]) for index, item in done]


@must("response stream")
def _(e: Exchange) -> bool:
    """Every event of an item names it by its id and its place, between its beginning and its end."""
    open_items: dict[int, str] = {}
    for event in e.events[2:-1]:
        if event["type"] == "response.output_item.added":
            open_items[event["output_index"]] = event["item"]["id"]
        elif event["type"] == "response.output_item.done":
            del open_items[event["output_index"]]
        elif open_items[event["output_index"]] != event["item_id"]:
            return False
    return not open_items


@must("response stream")
def _(e: Exchange) -> bool:
    """Parts of a message are added and done once, and their deltas join to their texts."""
    texts: dict[tuple[int, int], str] = {}
    done: dict[tuple[int, int], str] = {}
    for event in e.events:
        place = event.get("output_index"), event.get("content_index")
        if event["type"] == "response.content_part.added":
            assert place not in texts
            texts[place] = ""
        elif event["type"] == "response.output_text.delta":
            texts[place] += event["delta"]
        elif event["type"] == "response.output_text.done":
            assert texts[place] == event["text"]
        elif event["type"] == "response.content_part.done":
            done[place] = event["part"]["text"]
    output = e.events[-1]["response"]["output"]
    last = {(i, n): p["text"] for i, item in enumerate(output) for n, p in enumerate(item.get("content", ()))}
    said = [event for event in e.events if event["type"] == "response.output_text.done"]
    return texts == done == last and len(said) == len(last)


@must("response stream")
def _(e: Exchange) -> bool:
    """Fragments of a call's arguments join to its arguments."""
    texts: dict[int, str] = {}
    for event in e.events:
        if event["type"] == "response.function_call_arguments.delta":
            texts[event["output_index"]] = texts.get(event["output_index"], "") + event["delta"]
    done = {x["output_index"]: x["arguments"] for x in e.events if x["type"] == "response.function_call_arguments.done"}
    output = enumerate(e.events[-1]["response"]["output"])
    return texts == done == {index: item["arguments"] for index, item in output if item["type"] == "function_call"}


@must("response stream")
def _(e: Exchange) -> bool:
    """The last event has the response that is sent whole."""
    streamed, sent = e.events[-1]["response"], whole(e)
    assert [item["type"] for item in streamed["output"]] == [item["type"] for item in sent["output"]]
    names = ("status", "usage", "instructions", "tools", "metadata", "incomplete_details")
    return _said(streamed) == _said(sent) and all(streamed[name] == sent[name] for name in names)


def _said(response: Any) -> list[Any]:
    """The texts and calls of a response."""
    parts = [part.get("text") for item in response["output"] for part in item.get("content", ())]
    calls = [(item["name"], item["arguments"]) for item in response["output"] if "arguments" in item]
    return [parts, calls]
