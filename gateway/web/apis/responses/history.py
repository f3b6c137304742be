"""What a request refers to in the store: an earlier response, and single items."""

from dataclasses import dataclass
from typing import Any, Final

from gateway.errors import InvalidField
from gateway.state.response_store import ResponseStore, StoredResponse
from twolane.process import exact_json

PREVIOUS: Final = "previous_response_id"
RESPONSE_ID: Final = "resp_"


@dataclass(frozen=True, slots=True)
class History:
    """The part of the store that one key reads; without a store, nothing is found."""

    store: ResponseStore | None
    owner: str | None

    def items_before(self, previous: Any) -> list[Any]:
        """All items up to the end of the response with this id. Raises InvalidField."""
        if previous is None:
            return []
        found = self._find(previous) if isinstance(previous, str) else None
        if found is None:
            raise InvalidField(f"{PREVIOUS!r} names no stored response: {previous!r}.", param=PREVIOUS)
        return [*exact_json.loads(found.items), *exact_json.loads(found.response)["output"]]

    def item(self, item_id: str) -> Any:
        """The output item of a stored response; None if there is none."""
        key = item_id.split("_")[1:2]  # an id is the kind of the item, the key of the response, and the position
        found = self._find(RESPONSE_ID + key[0]) if key else None
        output = exact_json.loads(found.response)["output"] if found is not None else ()
        return next((item for item in output if item["id"] == item_id), None)

    def resolved(self, items: list[Any]) -> list[Any]:
        """The items with references replaced by what they refer to, if that is stored."""
        return [(self.item(each["id"]) or each) if each.get("type") == "item_reference" else each for each in items]

    def _find(self, response_id: str) -> StoredResponse | None:
        return None if self.store is None else self.store.get(response_id, self.owner)


NO_HISTORY: Final = History(None, None)
