"""Rules for chat completions and text completions, whole and as a stream of chunks."""

import json
from collections.abc import Sequence
from typing import Any, Final

from tests.conformance.exchange import DONE, Exchange, deltas_of
from tests.conformance.rules import CHUNKS, fits, is_call, is_int, must, whole

_FINISHES: Final = ("stop", "length", "tool_calls", "content_filter", "function_call")


@must("chat")
def _(e: Exchange) -> bool:
    """A chat completion has its id, object, time and model."""
    return _has_head(e.document, "chat.completion")


@must("text")
def _(e: Exchange) -> bool:
    """A text completion has its id, object, time and model."""
    return _has_head(e.document, "text_completion")


@must("chat", "text")
def _(e: Exchange) -> bool:
    """Choices are numbered from 0: n for each prompt, in their order."""
    return [choice["index"] for choice in e.document["choices"]] == list(range(_choices(e)))


@must("chat", "text")
def _(e: Exchange) -> bool:
    """Every choice of a whole answer has a finish reason."""
    return all(choice["finish_reason"] in _FINISHES for choice in e.document["choices"])


@must("chat")
def _(e: Exchange) -> bool:
    """A message is the assistant's, with a content or tool calls."""
    messages = [choice["message"] for choice in e.document["choices"]]
    contents = [isinstance(m["content"], str) or (m["content"] is None and m["tool_calls"]) for m in messages]
    return all(contents) and all(m["role"] == "assistant" for m in messages)


@must("text")
def _(e: Exchange) -> bool:
    """A choice of a text completion has a text."""
    return all(isinstance(choice["text"], str) and choice["text"] for choice in e.document["choices"])


@must("text")
def _(e: Exchange) -> bool:
    """With echo, each text begins with its prompt; without, none does."""
    prompt = e.ask.body["prompt"]
    begins = [choice["text"].startswith(str(prompt)) for choice in e.document["choices"]]
    return all(begins) if e.ask.body.get("echo") else not any(begins)


@must("chat", "text")
def _(e: Exchange) -> bool:
    """Usage adds up."""
    usage = e.document["usage"]
    parts = usage["prompt_tokens"], usage["completion_tokens"]
    return all(map(is_int, parts)) and sum(parts) == usage["total_tokens"] > 0


@must("chat", "text")
def _(e: Exchange) -> bool:
    """An answer that the token limit cut says length, and no other does."""
    is_cut = 1 in (e.ask.body.get("max_tokens"), e.ask.body.get("max_completion_tokens"))
    return all((choice["finish_reason"] == "length") is is_cut for choice in e.document["choices"])


@must("chat")
def _(e: Exchange) -> bool:
    """Log-probabilities are there if they are asked for: one for each token, with as many others as asked for."""
    found = [choice.get("logprobs") for choice in e.document["choices"]]
    if not e.ask.body.get("logprobs"):
        return not any(found)
    return all(_are_chat_logprobs(each, e.ask.body["top_logprobs"]) for each in found)


@must("text")
def _(e: Exchange) -> bool:
    """Log-probabilities of a text are parallel lists that join to the text, and null if they are not asked for."""
    pairs = [(choice["text"], choice["logprobs"]) for choice in e.document["choices"]]
    if e.ask.body.get("logprobs") is None:
        return all(each is None for _, each in pairs)
    return all(_are_text_logprobs(text, each) for text, each in pairs)


@must("chat")
def _(e: Exchange) -> bool:
    """A call has an id, a type, a name that was offered, and arguments that fit; the reason is tool_calls."""
    for choice in e.document["choices"]:
        calls = choice["message"].get("tool_calls") or []
        ids = [call["id"] for call in calls]
        if len(set(ids)) != len(ids) or (choice["finish_reason"] == "tool_calls") is not bool(calls):
            return False
        if not all(call["type"] == "function" and is_call(call["function"]) and call["id"] for call in calls):
            return False
    return bool(e.ask.body.get("tools")) is any(c["message"].get("tool_calls") for c in e.document["choices"])


@must("chat")
def _(e: Exchange) -> bool:
    """A structured answer is JSON, and fits the schema."""
    form = (e.ask.body.get("response_format") or {}).get("type")
    texts = [choice["message"]["content"] for choice in e.document["choices"]]
    if form == "json_object":
        return all(isinstance(json.loads(text), dict) for text in texts)
    return form is None or all(fits(text) for text in texts)


# Chat and text completions, as a stream


@must(*CHUNKS)
def _(e: Exchange) -> bool:
    """Events have no name, and the last one is [DONE], once."""
    return [data for _, data in e.frames].index(DONE) == len(e.frames) - 1 and not any(name for name, _ in e.frames)


@must("chat stream")
def _(e: Exchange) -> bool:
    """All chunks of a chat have the same id, object, time and model."""
    return _same_head(e.events, "chat.completion.chunk")


@must("text stream")
def _(e: Exchange) -> bool:
    """All chunks of a text have the same id, object, time and model."""
    return _same_head(e.events, "text_completion")


@must(*CHUNKS)
def _(e: Exchange) -> bool:
    """Every choice ends once, and nothing follows its finish reason."""
    for index in range(_choices(e)):
        reasons = [choice["finish_reason"] for choice in deltas_of(e, index)]
        if reasons[-1] not in _FINISHES or any(reason is not None for reason in reasons[:-1]):
            return False
    return True


@must("chat stream")
def _(e: Exchange) -> bool:
    """The first chunk of a choice has the assistant's role, and no other changes it."""
    roles = [[c["delta"].get("role") for c in deltas_of(e, index)] for index in range(_choices(e))]
    return all(found[0] == "assistant" and set(found[1:]) <= {None, "assistant"} for found in roles)


@must("chat stream")
def _(e: Exchange) -> bool:
    """Contents of a stream join to the content of the whole answer."""
    joined = ["".join(c["delta"].get("content") or "" for c in deltas_of(e, i)) for i in range(_choices(e))]
    return joined == [choice["message"]["content"] or "" for choice in whole(e)["choices"]]


@must("text stream")
def _(e: Exchange) -> bool:
    """Texts of a stream join to the texts of the whole answer."""
    joined = ["".join(choice["text"] for choice in deltas_of(e, index)) for index in range(_choices(e))]
    return joined == [choice["text"] for choice in whole(e)["choices"]]


@must(*CHUNKS)
def _(e: Exchange) -> bool:
    """A stream ends for the reason of the whole answer."""
    reasons = [list(deltas_of(e, index))[-1]["finish_reason"] for index in range(_choices(e))]
    return reasons == [choice["finish_reason"] for choice in whole(e)["choices"]]


@must("chat stream")
def _(e: Exchange) -> bool:
    """A call begins with its index, id, type and name, and its arguments join to those of the whole answer."""
    for number, choice in enumerate(whole(e)["choices"]):
        calls: dict[int, dict[str, Any]] = {}
        for fragment in (f for c in deltas_of(e, number) for f in c["delta"].get("tool_calls") or ()):
            if fragment["index"] not in calls:
                calls[fragment["index"]] = {**fragment, "function": {**fragment["function"], "arguments": ""}}
            calls[fragment["index"]]["function"]["arguments"] += fragment["function"]["arguments"]
        expected = [{"index": index, **call} for index, call in enumerate(choice["message"].get("tool_calls") or ())]
        if [calls[index] for index in sorted(calls)] != expected:
            return False
    return True


@must(*CHUNKS)
def _(e: Exchange) -> bool:
    """Usage is in one last chunk without choices if it is asked for, and nowhere otherwise."""
    is_asked = bool(e.ask.body.get("stream_options"))
    told = [bool(event.get("usage")) for event in e.events]
    empty = [event["choices"] == [] for event in e.events]
    return told == empty == [False] * (len(told) - is_asked) + [True] * is_asked


@must(*CHUNKS)
def _(e: Exchange) -> bool:
    """Log-probabilities of a stream are those of the whole answer."""
    for number, choice in enumerate(whole(e)["choices"]):
        chunks = [c["logprobs"] for c in deltas_of(e, number) if c.get("logprobs")]
        name = "content" if e.ask.kind == "chat stream" else "tokens"
        if [token for each in chunks for token in each[name]] != ((choice.get("logprobs") or {}).get(name) or []):
            return False
    return True


def _has_head(document: Any, form: str) -> bool:
    texts = all(isinstance(document[name], str) and document[name] for name in ("id", "model"))
    return texts and document["object"] == form and is_int(document["created"])


def _same_head(events: Sequence[Any], form: str) -> bool:
    heads = {(each["id"], each["created"], each["model"]) for each in events}
    return len(heads) == 1 and all(_has_head(each, form) for each in events)


def _choices(e: Exchange) -> int:
    prompt = e.ask.body.get("prompt")
    return (len(prompt) if isinstance(prompt, list) else 1) * int(e.ask.body.get("n", 1))


def _is_token(record: Any) -> bool:
    return (
        isinstance(record["token"], str)
        and record["logprob"] <= 0
        and record["bytes"] == list(record["token"].encode())
    )


def _are_chat_logprobs(given: Any, top: int) -> bool:
    tokens = given["content"]
    listed = [len(token["top_logprobs"]) == top for token in tokens]
    return bool(tokens) and all(map(_is_token, tokens)) and all(listed)


def _are_text_logprobs(text: str, given: Any) -> bool:
    names = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
    lengths = {len(given[name]) for name in names}
    return "".join(given["tokens"]) == text and len(lengths) == 1 and given["text_offset"][0] == 0
