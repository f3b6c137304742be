"""web.answers: bytes of OpenAI's shape."""

import orjson
import pytest

from diffusion_worker.records import Usage
from diffusion_worker.web.answers import Chunks, Label, completion, diffusion_body, event, usage_body

LABEL = Label(id="chatcmpl-1", model="m", created=5)
USAGE = Usage(
    prompt_tokens=3, completion_tokens=8, denoising_steps=2, forward_passes=3, confidence=None, converged=None
)


@pytest.mark.parametrize("text", ["a\nb", "\r\n\r\n", "data: x\n\n", "\u2028é🙂"])
def test_an_event_is_one_line_whatever_the_text(text: str) -> None:
    """A line break in an answer must not end the event."""
    sent = Chunks(LABEL, include_usage=False).text(text)
    assert sent.startswith(b"data: ")
    assert sent.endswith(b"\n\n")
    assert b"\n" not in sent[:-2]
    assert b"\r" not in sent
    assert orjson.loads(sent[6:])["choices"][0]["delta"]["content"] == text


def test_a_completion_repeats_its_label() -> None:
    """Id, model and time, with one choice."""
    body = orjson.loads(completion(LABEL, "t", "stop", {}))
    assert (body["id"], body["model"], body["created"], body["object"]) == ("chatcmpl-1", "m", 5, "chat.completion")
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "t", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]


def test_usage_adds_up_and_keeps_unknowns_null() -> None:
    """No confidence yet, nothing to converge: null, not a number that looks like one."""
    body = usage_body(USAGE, 4)
    assert body["total_tokens"] == 11
    assert body["completion_tokens_details"] == {"accepted_prediction_tokens": 4}
    assert body["diffusion"] == diffusion_body(USAGE)
    assert (body["diffusion"]["tokens_per_forward"], body["diffusion"]["confidence"]) == (2.667, None)


def test_an_error_inside_a_stream_is_an_event_like_any_other() -> None:
    """Clients look for `error` in the data."""
    assert event({"error": {}}) == b'data: {"error":{}}\n\n'
