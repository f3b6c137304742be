"""What a request may read from the store."""

from typing import Any

import orjson
import pytest

from gateway.errors import BodyTooLarge
from gateway.state.response_store import ResponseStore, StoredResponse
from gateway.web.apis.responses.history import History

SAID = {"id": "msg_1_0", "type": "message", "role": "assistant", "content": "x" * 100}
REFERENCE = {"type": "item_reference", "id": SAID["id"]}
STORED = StoredResponse(owner="ann", response=orjson.dumps({"output": [SAID]}), items=b"[]")


def store_of(max_read_bytes: int) -> ResponseStore:
    made = ResponseStore(max_bytes=10_000, max_read_bytes=max_read_bytes, lifetime_s=60, now_s=lambda: 0.0)
    made.put("resp_1", STORED)
    return made


def test_references_to_stored_items_are_replaced_and_others_stay() -> None:
    others: list[Any] = [{"type": "item_reference", "id": "msg_2_0"}, {"type": "item_reference", "id": 1}, "x", None]
    store = store_of(1000)
    assert History(store, "ann").resolved([REFERENCE, *others]) == [SAID, *others]
    assert History(store, "bob").resolved([REFERENCE]) == [REFERENCE]
    assert History(None, "ann").resolved([REFERENCE]) == [REFERENCE]


def test_many_references_to_one_item_count_each() -> None:
    store = store_of(3 * len(orjson.dumps(SAID)))
    assert len(History(store, "ann").resolved([REFERENCE] * 3)) == 3
    with pytest.raises(BodyTooLarge) as caught:
        History(store, "ann").resolved([REFERENCE] * 4)
    assert caught.value.param == "input"


def test_an_earlier_response_counts_with_its_references() -> None:
    history = History(store_of(STORED.size_bytes), "ann")
    assert history.items_before("resp_1") == [SAID]
    with pytest.raises(BodyTooLarge):
        history.resolved([REFERENCE])
    with pytest.raises(BodyTooLarge) as caught:
        History(store_of(STORED.size_bytes - 1), "ann").items_before("resp_1")
    assert caught.value.param == "previous_response_id"
