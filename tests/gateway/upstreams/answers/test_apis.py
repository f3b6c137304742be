"""Answers of other APIs are read in the pipeline's own form."""

from typing import Any

import orjson
import pytest

from gateway.enums import TargetApi
from gateway.errors import AttemptFailed
from gateway.types import Delta
from gateway.upstreams.answers.reader import AnswerReader

TEXT = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m"}
LOGPROBS = {
    "tokens": ["a", "b"],
    "token_logprobs": [None, -1.5],
    "top_logprobs": [None, {"b": -1.5}],
    "text_offset": [0, 1],
}
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def deltas(body: bytes, *, stream: bool = False, api: TargetApi = TargetApi.COMPLETIONS) -> list[Delta]:
    reader = AnswerReader(stream=stream, max_bytes=1 << 20, api=api)
    return [*reader.feed(body), *reader.close()]


def events(*documents: Any) -> bytes:
    return b"".join(b"data: " + orjson.dumps(each) + b"\n\n" for each in documents) + b"data: [DONE]\n\n"


def chunk(text: str, index: int = 0, reason: str | None = None) -> dict[str, Any]:
    return {**TEXT, "choices": [{"index": index, "text": text, "logprobs": None, "finish_reason": reason}]}


def test_a_whole_text_completion_is_read_as_a_chat_completion() -> None:
    choices = [{"index": n, "text": text, "logprobs": None, "finish_reason": "stop"} for n, text in enumerate("ab")]
    (delta,) = deltas(orjson.dumps({**TEXT, "choices": choices, "usage": USAGE}))
    assert [(piece.index, piece.text, piece.finish_reason) for piece in delta.pieces] == [
        (0, "a", "stop"),
        (1, "b", "stop"),
    ]
    assert delta.usage is not None
    assert (delta.usage.input_tokens, delta.usage.output_tokens) == (3, 2)
    document = orjson.loads(delta.data)
    assert document["object"] == "chat.completion"
    assert document["choices"][0]["message"] == {"content": "a", "role": "assistant"}


def test_a_stream_of_text_is_read_as_a_stream_of_a_chat() -> None:
    usage = {**TEXT, "choices": [], "usage": USAGE}
    found = deltas(events(chunk("a"), chunk("b"), chunk("", reason="length"), usage), stream=True)
    assert ["".join(piece.text for piece in delta.pieces) for delta in found] == ["a", "b", "", ""]
    assert found[2].pieces[0].finish_reason == "length"
    assert found[3].usage is not None


def test_the_form_that_was_requested_is_kept_whatever_the_target_sends() -> None:
    *progress, whole = deltas(events(chunk("a"), chunk("b", reason="stop")))
    assert [delta.data for delta in progress] == [b"", b""]
    assert orjson.loads(whole.data)["choices"][0]["message"]["content"] == "ab"
    parts = deltas(orjson.dumps(chunk("ab", reason="stop")), stream=True)
    assert "".join(piece.text for delta in parts for piece in delta.pieces) == "ab"


def test_log_probabilities_become_one_record_per_token() -> None:
    choice = {"index": 0, "text": "ab", "logprobs": LOGPROBS, "finish_reason": "stop"}
    (delta,) = deltas(orjson.dumps({**TEXT, "choices": [choice]}))
    assert orjson.loads(delta.data)["choices"][0]["logprobs"]["content"] == [
        {"token": "a", "logprob": None, "bytes": None, "top_logprobs": None, "text_offset": 0},
        {
            "token": "b",
            "logprob": -1.5,
            "bytes": None,
            "text_offset": 1,
            "top_logprobs": [{"token": "b", "logprob": -1.5, "bytes": None}],
        },
    ]


@pytest.mark.parametrize("odd", [3, [], {}, {"tokens": 3}, {"tokens": ["a"], "token_logprobs": "x"}])
def test_odd_log_probabilities_do_not_harm_the_text(odd: Any) -> None:
    choice = {"index": 0, "text": "a", "logprobs": odd, "finish_reason": "stop"}
    assert deltas(orjson.dumps({**TEXT, "choices": [choice]}))[0].pieces[0].text == "a"


def test_a_chat_completion_in_place_of_a_text_completion_is_read_too() -> None:
    message = {"index": 0, "message": {"role": "assistant", "content": "a"}, "finish_reason": "stop"}
    assert deltas(orjson.dumps({"choices": [message]}))[0].pieces[0].text == "a"


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'{"choices": 3}', b'{"error": {"message": "no"}}', b"<html>"])
@pytest.mark.parametrize("api", [TargetApi.COMPLETIONS, TargetApi.EMBEDDINGS])
def test_anything_else_is_the_targets_error(body: bytes, api: TargetApi) -> None:
    with pytest.raises(AttemptFailed):
        deltas(body, api=api)


def test_embeddings_are_forwarded_byte_for_byte_with_their_usage() -> None:
    body = b'{"object": "list", "data": [{"index": 0, "embedding": [0.1, -1e-9]}], "usage": {"prompt_tokens": 4}}'
    (delta,) = deltas(body, api=TargetApi.EMBEDDINGS)
    assert delta.data == body
    assert delta.usage is not None
    assert (delta.usage.input_tokens, delta.usage.output_tokens) == (4, 0)
    assert delta.pieces[0].is_answer


@pytest.mark.parametrize("body", [b'{"data": []}', b'{"choices": [{"index": 0, "message": {"content": "hi"}}]}'])
def test_an_answer_without_embeddings_is_an_error(body: bytes) -> None:
    with pytest.raises(AttemptFailed, match=r"not a list of embeddings|not a chat completion"):
        deltas(body, api=TargetApi.EMBEDDINGS)
