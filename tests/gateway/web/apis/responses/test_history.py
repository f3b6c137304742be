"""What a request may read from the store."""

from typing import Any

import orjson
import pytest

from gateway.errors import BodyTooLarge, InvalidField
from gateway.state.response_store import MemoryResponseStore, StoredResponse
from gateway.web.apis.responses.history import History, read_history

pytestmark = pytest.mark.anyio
KEY = "0" * 24
SAID = {"id": f"msg_{KEY}_0", "type": "message", "role": "assistant", "content": "x" * 100}
THEIRS = {**SAID, "id": "msg_theirs"}
REFERENCE = {"type": "item_reference", "id": SAID["id"]}
OUTPUT = orjson.dumps({"output": [SAID, THEIRS]})
STORED = StoredResponse(owner="ann", response=OUTPUT, items=b"[]", item_ids=(THEIRS["id"],))


async def read(given: Any, owner: str | None = "ann", *, max_read_bytes: int = 10_000, **more: Any) -> History:
    store = MemoryResponseStore(max_bytes=10_000, max_read_bytes=max_read_bytes, lifetime_s=60, now_s=lambda: 0.0)
    await store.put(f"resp_{KEY}", STORED)
    return await read_history(store, orjson.dumps({"input": given, **more}), owner)


@pytest.mark.parametrize("item", [SAID, THEIRS])
async def test_references_to_stored_items_are_replaced_and_others_stay(item: dict[str, Any]) -> None:
    reference = {"type": "item_reference", "id": item["id"]}
    others: list[Any] = [
        {"type": "item_reference", "id": f"msg_{'1' * 24}_0"},
        {"type": "item_reference", "id": "msg_9"},
        {"role": "user", "content": "item_reference"},
    ]
    given = [reference, *others]
    assert (await read(given)).resolved(given) == [item, *others]
    assert (await read(given, "bob")).resolved(given) == given
    assert (await read(given, None)).resolved(given) == given


@pytest.mark.parametrize("given", ["item_reference", [1, "item_reference"], {"item_reference": 1}, None])
async def test_what_is_no_list_of_items_is_left_to_the_parser(given: Any) -> None:
    assert (await read(given, previous_response_id=5)).resolved(given) == given


async def test_many_references_to_one_item_count_each() -> None:
    most = 3 * len(orjson.dumps(SAID))
    given = [REFERENCE] * 3
    assert len((await read(given, max_read_bytes=most)).resolved(given)) == 3
    with pytest.raises(BodyTooLarge) as caught:
        (await read(given, max_read_bytes=most)).resolved([*given, REFERENCE])
    assert caught.value.param == "input"


async def test_references_to_very_many_different_items_are_refused() -> None:
    given = [{"type": "item_reference", "id": f"msg_{number}"} for number in range(1001)]
    with pytest.raises(InvalidField) as caught:
        await read(given)
    assert caught.value.param == "input"


async def test_an_earlier_response_counts_with_its_references() -> None:
    previous = {"previous_response_id": f"resp_{KEY}"}
    history = await read([REFERENCE], max_read_bytes=STORED.size_bytes, **previous)
    assert history.items_before(previous["previous_response_id"]) == [SAID, THEIRS]
    with pytest.raises(BodyTooLarge):
        history.resolved([REFERENCE])
    history = await read([], max_read_bytes=STORED.size_bytes - 1, **previous)
    with pytest.raises(BodyTooLarge) as caught:
        history.items_before(previous["previous_response_id"])
    assert caught.value.param == "previous_response_id"
