"""Chat completions take the form of OpenAI's text completions and of Mistral's fill-in-the-middle."""

from typing import Any

import orjson

from gateway.beyond_chat import BeyondChat, Prompt
from gateway.enums import TargetApi
from gateway.types import Query
from gateway.upstreams.answers.apis import read_text_completion, read_text_event
from gateway.upstreams.answers.lenient import ChunkState
from gateway.upstreams.answers.reframe import ChunkMerger
from gateway.web.apis.text_answer import TextWriter

FILLED = (Prompt(text="def f():\n", suffix="\n\nf()"),)
USAGE = {"prompt_tokens": 3, "completion_tokens": 2}


def writer(
    prompts: tuple[Prompt, ...] = (Prompt(text="a"),),
    *,
    is_fill_in: bool = False,
    echo: bool = False,
    n: int | None = None,
) -> TextWriter:
    query = Query(
        request_id="req_1",
        model="auto",
        body=b"{}",
        received_s=0.0,
        beyond_chat=BeyondChat(api=TargetApi.COMPLETIONS, prompts=prompts, echo=echo),
        n=n or len(prompts),
    )
    return TextWriter(query, 7.9, is_fill_in=is_fill_in)


def whole(text: str | None, index: int = 0, **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text, "refusal": None}
    return {"index": index, "message": message, "finish_reason": "stop", **more}


def written(made: TextWriter, *choices: dict[str, Any], **head: Any) -> dict[str, Any]:
    document = {"id": "chatcmpl-1", "object": "chat.completion", "created": 5, "model": "m", **head, "choices": choices}
    return dict(orjson.loads(made.whole(orjson.dumps(document))))


def streamed(made: TextWriter, *deltas: Any, **head: Any) -> list[dict[str, Any]]:
    """Each delta is a text, a finish reason in a tuple, or a whole list of choices."""
    parts: list[bytes] = []
    for delta in deltas:
        choice = {"index": 0, "delta": {"content": delta}, "finish_reason": None}
        if isinstance(delta, tuple):
            choice = {"index": 0, "delta": {}, "finish_reason": delta[0]}
        choices = delta if isinstance(delta, list) else [choice]
        parts += made.chunks(orjson.dumps({"id": "chatcmpl-1", "created": 5, "model": "m", "choices": choices, **head}))
    return [orjson.loads(part) for part in parts + made.end()]


def text_of(chunks: list[dict[str, Any]]) -> str:
    return "".join(choice["text"] for chunk in chunks for choice in chunk["choices"])


def test_a_whole_answer_has_openai_s_form() -> None:
    assert written(writer(), whole(" = 1"), usage=USAGE, system_fingerprint="fp") == {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": 5,
        "model": "m",
        "choices": [{"index": 0, "text": " = 1", "logprobs": None, "finish_reason": "stop"}],
        "usage": {**USAGE, "total_tokens": 5},
        "system_fingerprint": "fp",
    }


def test_fields_that_clients_require_are_there_even_if_the_target_left_them_out() -> None:
    made = orjson.loads(writer().whole(orjson.dumps({"choices": [whole(None)]})))
    assert (made["id"], made["created"], made["model"]) == ("req_1", 7, "auto")
    assert made["choices"][0]["text"] == ""


def test_a_whole_fill_in_has_its_text_twice() -> None:
    made = written(writer(FILLED, is_fill_in=True), whole("    pass"))
    assert made["object"] == "chat.completion"
    choice = made["choices"][0]
    assert choice["text"] == "    pass"
    assert choice["message"] == {"role": "assistant", "content": "    pass"}


def test_a_stream_has_openai_s_form_without_chunks_that_add_nothing() -> None:
    chunks = streamed(writer(), "", " =", " 1", ("stop",), [], usage=None)
    assert [chunk["choices"] for chunk in chunks] == [
        [{"index": 0, "text": " =", "logprobs": None, "finish_reason": None}],
        [{"index": 0, "text": " 1", "logprobs": None, "finish_reason": None}],
        [{"index": 0, "text": "", "logprobs": None, "finish_reason": "stop"}],
        [],
    ]
    assert {(chunk["object"], chunk["id"], chunk["usage"]) for chunk in chunks} == {("text_completion", "cmpl-1", None)}


def test_a_stream_of_a_fill_in_has_text_and_delta() -> None:
    chunks = streamed(writer(FILLED, is_fill_in=True), "x =", " 1", ("stop",))
    assert [chunk["choices"][0]["delta"]["content"] for chunk in chunks] == ["x =", " 1", ""]
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["x =", " 1", ""]
    assert chunks[0]["object"] == "chat.completion.chunk"


def test_echo_puts_the_prompt_as_sent_before_each_choice() -> None:
    prompts = (Prompt(text="a"), Prompt(text="b", suffix="c", marked="<PRE> b <SUF>c <MID>"))
    made = written(writer(prompts, n=4, echo=True), *(whole("!", index) for index in range(4)))
    assert [choice["text"] for choice in made["choices"]] == ["a!", "a!", *["<PRE> b <SUF>c <MID>!"] * 2]
    assert text_of(streamed(writer(echo=True), " =", " 1", ("stop",))) == "a = 1"


def test_a_fence_around_what_fills_a_gap_is_removed() -> None:
    fenced = "```python\n    pass\n```"
    assert written(writer(FILLED), whole(fenced))["choices"][0]["text"] == "    pass"
    assert text_of(streamed(writer(FILLED), "```py", "thon\n    pa", "ss\n``", "`", ("stop",))) == "    pass"
    assert text_of(streamed(writer(FILLED), "```\nx\n")) == "x\n"


def test_a_fence_stays_where_the_text_has_fences_or_no_gap() -> None:
    fenced = "```python\npass\n```"
    readme = (Prompt(text="# Use\n", suffix="\n```sh\nmake\n```"),)
    assert written(writer(readme), whole(fenced))["choices"][0]["text"] == fenced
    assert written(writer(), whole(fenced))["choices"][0]["text"] == fenced


def test_log_probabilities_become_parallel_lists_with_offsets() -> None:
    def record(token: str, logprob: float) -> dict[str, Any]:
        top = [{"token": token, "logprob": logprob, "bytes": None}, {"token": "x", "logprob": -3.0, "bytes": None}]
        return {"token": token, "logprob": logprob, "bytes": None, "top_logprobs": top}

    content = {"content": [record(" =", -0.5), record(" 1", -0.25)]}
    assert written(writer(), whole(" = 1", logprobs=content))["choices"][0]["logprobs"] == {
        "tokens": [" =", " 1"],
        "token_logprobs": [-0.5, -0.25],
        "top_logprobs": [{" =": -0.5, "x": -3.0}, {" 1": -0.25, "x": -3.0}],
        "text_offset": [0, 2],
    }
    choices = [[{"index": 0, "delta": {"content": t}, "logprobs": {"content": [record(t, -1)]}}] for t in ("ab", "c")]
    chunks = streamed(writer(), *choices)
    assert [chunk["choices"][0]["logprobs"]["text_offset"] for chunk in chunks] == [[0], [2]]


def test_lists_of_a_target_are_written_as_it_gave_them() -> None:
    """Whole and in parts: a target that echoes a prompt says where its tokens begin; the first has no value."""
    lists = {
        "tokens": ["bytes:\\xc3", "bytes:\\xa9", "b"],
        "token_logprobs": [None, -1.5, -0.5],
        "top_logprobs": [None, {"bytes:\\xa9": -1.5, "x": -2.0}, {"b": -0.5}],
        "text_offset": [0, 0, 1],
    }
    target = {"index": 0, "text": "éb", "logprobs": lists, "finish_reason": "length"}
    answer = read_text_completion(orjson.dumps({"object": "text_completion", "choices": [target]}))
    assert orjson.loads(writer().whole(answer.data))["choices"] == [target]
    merger = ChunkMerger()
    for place in range(3):
        part = {name: values[place : place + 1] for name, values in lists.items()}
        choice = {"index": 0, "text": "é"[:place] if place < 2 else "b", "logprobs": part, "finish_reason": None}
        read = read_text_event(orjson.dumps({"object": "text_completion", "choices": [choice]}), ChunkState())
        assert read is not None
        merger.add(read.data)
    assert orjson.loads(writer().whole(merger.whole()))["choices"][0]["logprobs"] == lists


def test_log_probabilities_of_another_form_are_left_out() -> None:
    for odd in (3, {"content": 3}, {"content": ["x"]}, {"tokens": ["a"]}):
        assert written(writer(), whole("a", logprobs=odd))["choices"][0]["logprobs"] is None
