"""Calls of tools whose fields have other types than OpenAI's, in the APIs that write them in another form."""

from typing import Any

import orjson
import pytest

from gateway.web.apis.table import APIS

USER = [{"role": "user", "content": "hi"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/responses": {"model": "auto", "input": "hi"},
    "/v1/messages": {"model": "auto", "messages": USER, "max_tokens": 9},
}
ODD: tuple[Any, ...] = (None, 5, True, "x", [1], {"name": 5, "input": 7}, {"name": "f", "input": {"a": 1}})


@pytest.mark.parametrize("kind", ["custom", "function"])
@pytest.mark.parametrize("given", ODD, ids=repr)
@pytest.mark.parametrize("path", BODIES)
def test_a_call_with_odd_types_is_written_as_far_as_it_is_known(path: str, given: Any, kind: str) -> None:
    query = APIS[path].read(orjson.dumps(BODIES[path]), {}, now_s=0.0, key=None)
    make = APIS[path].writer
    assert make is not None
    calls = [{"index": 0, "id": "call_1", "type": kind, kind: given}]
    choices = [{"index": 0, "message": {"tool_calls": calls}, "finish_reason": "tool_calls"}]
    assert b"call_1" in make(query, 0.0).whole(orjson.dumps({"choices": choices}))
    stream = make(query, 0.0)
    chunk = orjson.dumps({"choices": [{"index": 0, "delta": {"tool_calls": calls}, "finish_reason": None}]})
    assert b"call_1" in stream.events(chunk) + stream.end()
