"""Answers of which one field has another type than OpenAI's, in every API that writes them in its own form."""

from collections.abc import Iterator

import orjson
import pytest

from gateway.beyond_chat import BeyondChat, Prompt
from gateway.errors import AttemptFailed
from gateway.types import Delta, Query
from gateway.upstreams.answers.lenient import ChunkState
from gateway.upstreams.parse_response import read_delta, read_event
from gateway.web.apis.table import APIS
from tests.odd_values import variants

TOKEN = {"token": "h", "logprob": -0.1, "bytes": [104]}
BODY = {
    "role": "assistant",
    "content": "hi",
    "refusal": "no",
    "reasoning_content": "so",
    "annotations": [{"type": "url_citation", "url_citation": {"url": "u"}}],
    "tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
}
CHOICE = {"index": 0, "finish_reason": "stop", "logprobs": {"content": [{**TOKEN, "top_logprobs": [TOKEN]}]}}
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}}
HEAD = {"id": "i", "created": 1, "model": "m", "service_tier": "t", "usage": USAGE}
NEXT = b'{"choices":[{"index":0,"delta":{"content":"x"}}]}'
PATHS = [path for path, api in APIS.items() if api.writer is not None]


def read(body: str) -> Iterator[Delta]:
    """Those that the gateway does not refuse."""
    for document in variants({**HEAD, "choices": [{**CHOICE, body: BODY}]}):
        data = orjson.dumps(document)
        try:
            delta = read_delta(data) if body == "message" else read_event(data, ChunkState())
        except AttemptFailed:
            continue
        if delta is not None:
            yield delta


@pytest.mark.parametrize("path", PATHS)
def test_an_answer_with_an_odd_field_is_written_whole_and_as_a_stream(path: str) -> None:
    """What the gateway has accepted must not end the request with an internal error."""
    beyond = BeyondChat(path=path, prompts=(Prompt(text="a", suffix="b"),))
    query = Query(request_id="req_1", model="auto", body=b"{}", received_s=0.0, beyond_chat=beyond)
    make = APIS[path].writer
    assert make is not None
    for delta in read("message"):
        assert isinstance(orjson.loads(make(query, 0.0).whole(delta.data)), dict), delta.data
    for delta in read("delta"):
        stream = make(query, 0.0)
        assert stream.events(delta.data) + stream.events(NEXT) + stream.end(), delta.data
