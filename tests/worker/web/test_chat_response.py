"""Chat responses in OpenAI's form."""

import orjson
import pytest

from diffusion_worker.text.channels import ChannelOutput
from diffusion_worker.text.tool_calls import ToolCall
from diffusion_worker.types.events import Usage
from diffusion_worker.web.chat_response import ChatWriter
from diffusion_worker.web.response_parts import Details, ResponseMetadata, diffusion_body, event, usage_body

METADATA = ResponseMetadata(id="chatcmpl-1", model="m", created=5)
USAGE = Usage(
    prompt_tokens=3,
    completion_tokens=8,
    denoising_steps=2,
    forward_passes=3,
    confidence=None,
    converged=None,
    cached_tokens=2,
)


def output(text: str = "", thought: str = "", *calls: str) -> ChannelOutput:
    """What became final; calls by their names."""
    called = tuple(ToolCall(name=name, arguments="{}") for name in calls)
    return ChannelOutput(text=text, thought=thought, calls=called, ids_read=0, text_ids=())


@pytest.mark.parametrize("text", ["a\nb", "\r\n\r\n", "data: x\n\n", "\u2028é🙂"])
def test_an_event_is_always_one_line(text: str) -> None:
    """A line break in the text must not end the event."""
    sent = ChatWriter(METADATA).output_events(output(text))
    assert sent.startswith(b"data: ")
    assert sent.endswith(b"\n\n")
    assert b"\n" not in sent[:-2]
    assert b"\r" not in sent
    assert orjson.loads(sent[6:])["choices"][0]["delta"]["content"] == text


def test_a_completion_contains_its_metadata() -> None:
    """Id, model and time, with one choice."""
    body = orjson.loads(ChatWriter(METADATA).response_body([output("t")], "stop", {}))
    assert (body["id"], body["model"], body["created"], body["object"]) == ("chatcmpl-1", "m", 5, "chat.completion")
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "t", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]


def test_reasoning_and_calls_are_present_only_if_there_are_any() -> None:
    """A message with only calls has null content; call ids are numbered."""
    body = orjson.loads(
        ChatWriter(METADATA).response_body([output("", "h", "f"), output("", "m", "g")], "tool_calls", {})
    )
    message = body["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == (None, "hm")
    assert [(call["id"], call["function"]["name"]) for call in message["tool_calls"]] == [
        ("call_1_0", "f"),
        ("call_1_1", "g"),
    ]


def test_a_stream_numbers_its_calls_and_sends_each_complete() -> None:
    """Thought, text and calls in this order, one event each; empty output sends nothing."""
    writer = ChatWriter(METADATA)
    assert writer.output_events(output()) == b""
    sent = (
        (writer.output_events(output("t", "hm", "f")) + writer.output_events(output("", "", "g", "h")))
        .decode()
        .split("\n\n")
    )
    deltas = [orjson.loads(part[6:])["choices"][0]["delta"] for part in sent if part]
    assert [next(iter(delta)) for delta in deltas] == ["reasoning_content", "content", *["tool_calls"] * 3]
    assert [delta["tool_calls"][0]["index"] for delta in deltas[2:]] == [0, 1, 2]
    assert deltas[2]["tool_calls"][0] == {
        "index": 0,
        "id": "call_1_0",
        "type": "function",
        "function": {"name": "f", "arguments": "{}"},
    }


def test_usage_is_summed_and_unknown_values_are_null() -> None:
    body = usage_body(USAGE, Details(accepted_prediction_tokens=4, rejected_prediction_tokens=1, reasoning_tokens=2))
    assert body["total_tokens"] == 11
    assert body["prompt_tokens_details"] == {"cached_tokens": 2}
    assert body["completion_tokens_details"] == {
        "accepted_prediction_tokens": 4,
        "rejected_prediction_tokens": 1,
        "reasoning_tokens": 2,
    }
    assert body["diffusion"] == diffusion_body(USAGE)
    assert (body["diffusion"]["tokens_per_forward"], body["diffusion"]["confidence"]) == (2.667, None)


def test_an_error_in_a_stream_is_a_data_event() -> None:
    """Clients look for `error` in the data."""
    assert event({"error": {}}) == b'data: {"error":{}}\n\n'


def test_a_draft_event_has_no_choices() -> None:
    """With include_usage its usage is null, as in other chunks."""
    body = orjson.loads(ChatWriter(METADATA, include_usage=True).draft({"draft": "a", "block": 0, "step": 3})[6:])
    assert (body["choices"], body["twolane"], body["usage"]) == ([], {"draft": "a", "block": 0, "step": 3}, None)
    assert (body["id"], body["object"]) == ("chatcmpl-1", "chat.completion.chunk")
