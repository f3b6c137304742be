"""What a request refers to in the store: an earlier response, and single items."""

from collections.abc import Mapping
from typing import Any, Final

from gateway.errors import BodyTooLarge, InvalidField
from gateway.state.response_store import ResponseStore, StoredResponse
from twolane.process import exact_json

PREVIOUS: Final = "previous_response_id"
RESPONSE_ID: Final = "resp_"


class History:
    """What one request reads from the store with its key; without a store, nothing is found.

    The store limits all that is read together: a small request can refer to a large item many times.
    """

    def __init__(self, store: ResponseStore | None, owner: str | None) -> None:
        self._store = store
        self._owner = owner
        self._max_bytes = 0 if store is None else store.max_read_bytes
        self._read_bytes = 0
        self._outputs: dict[str, Mapping[str, Any]] = {}  # the items of each response, by their ids

    def items_before(self, previous: Any) -> list[Any]:
        """All items up to the end of the response with this id. Raises InvalidField and BodyTooLarge."""
        if previous is None:
            return []
        found = self._find(previous) if isinstance(previous, str) else None
        if found is None:
            raise InvalidField(f"{PREVIOUS!r} names no stored response: {previous!r}.", param=PREVIOUS)
        self._count(found.size_bytes, PREVIOUS)
        return [*exact_json.loads(found.items), *exact_json.loads(found.response)["output"]]

    def resolved(self, given: Any) -> Any:
        """The field `input` with references replaced by what they refer to, if that is stored. Raises BodyTooLarge."""
        if self._store is None or not isinstance(given, list):
            return given
        return [each if (item := self._referred(each)) is None else item for each in given]

    def _referred(self, given: Any) -> Any:
        """The output item that a reference names; None if there is none, or for anything else."""
        if not isinstance(given, dict) or given.get("type") != "item_reference":
            return None
        item_id = str(given.get("id"))
        key = item_id.split("_")[1:2]  # an id is the kind of the item, the key of the response, and the position
        item = self._output(RESPONSE_ID + key[0]).get(item_id) if key else None
        if item is not None:
            self._count(len(exact_json.dumps(item)), "input")
        return item

    def _output(self, response_id: str) -> Mapping[str, Any]:
        if response_id not in self._outputs:
            found = self._find(response_id)
            listed = () if found is None else exact_json.loads(found.response)["output"]
            self._outputs[response_id] = {item["id"]: item for item in listed}
        return self._outputs[response_id]

    def _count(self, size: int, param: str) -> None:
        self._read_bytes += size
        if self._read_bytes > self._max_bytes:
            text = f"The stored items that the request refers to have more than {self._max_bytes} bytes."
            raise BodyTooLarge(text, param=param)

    def _find(self, response_id: str) -> StoredResponse | None:
        return None if self._store is None else self._store.get(response_id, self._owner)
