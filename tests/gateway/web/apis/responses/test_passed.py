"""Responses that a target wrote are kept as their clients received them, whatever the target leaves out."""

from typing import Any

import orjson
import pytest

from gateway.beyond_chat import BeyondChat
from gateway.state.response_store import MemoryResponseStore
from gateway.types import Query
from gateway.upstreams.answers.responses import read_response
from gateway.web.apis.responses.answer import ResponseWriter

pytestmark = pytest.mark.anyio
ITEM = {"id": "msg_1", "type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "hi"}]}
DONE = {"type": "response.output_item.done", "output_index": 0, "item": ITEM}
CREATED = {"type": "response.created", "response": {"object": "response", "status": "in_progress", "output": []}}


def end(**fields: Any) -> dict[str, Any]:
    return {"type": "response.completed", "response": {"object": "response", "status": "completed", **fields}}


def storing() -> tuple[ResponseWriter, MemoryResponseStore]:
    store = MemoryResponseStore(max_bytes=9999, max_read_bytes=9999, lifetime_s=60.0, now_s=lambda: 0.0)
    beyond = BeyondChat(path="/v1/responses", items_to_store=b"[]")
    query = Query(request_id="req_1", model="auto", body=b"{}", received_s=0.0, beyond_chat=beyond)
    return ResponseWriter(query, 0.0, store=store), store


async def stored_of(store: MemoryResponseStore) -> dict[str, Any]:
    stored = await store.get("resp_1", None)
    assert stored is not None
    return dict(orjson.loads(stored.response))


@pytest.mark.parametrize(
    "events",
    [
        [CREATED, DONE],  # it only breaks off
        [DONE],
        [CREATED, DONE, end()],
        [CREATED, DONE, end(output=[])],
        [CREATED, DONE, end(output="hi")],
        [CREATED, end(output=[ITEM, "x", None])],
        [CREATED, {**DONE, "item": 5}, DONE, end()],
    ],
)
async def test_the_response_that_is_stored_is_the_one_that_ends_the_stream(events: list[dict[str, Any]]) -> None:
    writer, store = storing()
    for event in events:
        writer.events(b"", orjson.dumps(event))
    await writer.keep()
    sent = orjson.loads(writer.end().partition(b"data: ")[2])["response"]
    assert await stored_of(store) == sent
    assert (sent["id"], sent["status"], sent["output"]) == ("resp_1", "completed", [ITEM])


async def test_a_whole_response_is_stored_without_items_that_are_no_objects() -> None:
    writer, store = storing()
    delta = read_response(orjson.dumps({"object": "response", "status": "completed", "output": [ITEM, "x", None]}))
    await writer.keep(delta.data, delta.original)
    assert await stored_of(store) == orjson.loads(writer.whole(delta.data, delta.original))
    assert (await stored_of(store))["output"] == [ITEM]
