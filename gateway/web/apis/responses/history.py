"""What a request refers to in the store: an earlier response, and single items.

All of it is read before the request is parsed: a store may be behind a network, and parsers run in threads.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from gateway.errors import BodyTooLarge, InvalidField
from gateway.policy_types import LocationLimit
from gateway.state.response_store import ReadTooLarge, ResponseStore, StoredResponse
from gateway.web.parse_request import LARGE_BYTES
from twolane.process import exact_json

PREVIOUS: Final = "previous_response_id"
REFERENCE: Final = "item_reference"
RESPONSE_ID: Final = "resp_"
_MAX_REFERENCES: Final = 1000  # to different items or responses
_OURS: Final = re.compile(r"[a-z]+_([0-9a-f]{24})_\d+")  # an item of a response that the gateway wrote


class _Item(msgspec.Struct):
    type: Any = None
    id: Any = None


class _Referring(msgspec.Struct):
    previous_response_id: Any = None
    input: msgspec.Raw = msgspec.Raw()


_request: Final = msgspec.json.Decoder(_Referring)
_items: Final = msgspec.json.Decoder(list[_Item])


@dataclass(slots=True)
class History:
    """What one request may read from a store. `previous` is the response that it continues, `outputs` are the response
    objects whose items it refers to, and `responses` are their ids by the ids of items. `keeps`: the store is expected
    to keep the response.

    `max_bytes` limits all that is read together: a small request can refer to a large item many times.
    """

    max_bytes: int
    keeps: bool = True
    previous: StoredResponse | None = None
    outputs: Mapping[str, StoredResponse] = field(default_factory=dict)
    responses: Mapping[str, str] = field(default_factory=dict)
    _read_bytes: int = 0
    _items: dict[str, Mapping[str, Any]] = field(default_factory=dict)  # of each response, by their ids

    @property
    def limits(self) -> tuple[LocationLimit, ...]:
        """The locations to which what the request refers to is limited."""
        read = (*((self.previous,) if self.previous is not None else ()), *self.outputs.values())
        found = [stored.locations for stored in read if stored.locations is not None]
        return tuple(LocationLimit("stored items", locations) for locations in dict.fromkeys(found))

    def items_before(self, previous: Any) -> list[Any]:
        """All items up to the end of the response with this id. Raises InvalidField and BodyTooLarge."""
        if previous is None:
            return []
        if self.previous is None:
            raise InvalidField(f"{PREVIOUS!r} names no stored response: {previous!r}.", param=PREVIOUS)
        self._count(self.previous.size_bytes, PREVIOUS)
        return [*exact_json.loads(self.previous.items), *exact_json.loads(self.previous.response)["output"]]

    def resolved(self, given: Any) -> Any:
        """The field `input` with references replaced by what they refer to, if that is stored. Raises BodyTooLarge."""
        if not self.outputs or not isinstance(given, list):
            return given
        return [each if (item := self._referred(each)) is None else item for each in given]

    def _referred(self, given: Any) -> Any:
        """The output item that a reference names; None if there is none, or for anything else."""
        if not isinstance(given, dict) or given.get("type") != REFERENCE:
            return None
        item_id = str(given.get("id"))
        item = self._output(self.responses.get(item_id, "")).get(item_id)
        if item is not None:
            self._count(len(exact_json.dumps(item)), "input")
        return item

    def _output(self, response_id: str) -> Mapping[str, Any]:
        if response_id not in self._items:
            found = self.outputs.get(response_id)
            listed = () if found is None else exact_json.loads(found.response)["output"]
            self._items[response_id] = {str(item.get("id")): item for item in listed}
        return self._items[response_id]

    def _count(self, size: int, param: str) -> None:
        self._read_bytes += size
        if self._read_bytes > self.max_bytes:
            raise _too_large(self.max_bytes, param)


async def read_history(store: ResponseStore, body: bytes, owner: str | None) -> History:
    """What a request with this body refers to. Raises BodyTooLarge, InvalidField and StoreUnavailable; what is no
    request is left to the parser."""
    history = History(store.max_read_bytes, keeps=store.is_up)
    is_large = len(body) > LARGE_BYTES
    previous, items = await asyncio.to_thread(_references, body) if is_large else _references(body)
    if isinstance(previous, str):
        history.previous = await store.get(previous, owner)
    try:
        history.responses = await _responses_of(store, items, owner)
        history.outputs = await store.outputs(list(dict.fromkeys(history.responses.values())), owner)
    except ReadTooLarge:
        raise _too_large(store.max_read_bytes, "input") from None
    return history


async def _responses_of(store: ResponseStore, items: Sequence[str], owner: str | None) -> Mapping[str, str]:
    """The ids of the responses by items. An item's id contains that of its response if the gateway wrote it."""
    if len(items) > _MAX_REFERENCES:
        raise InvalidField(f"'input' refers to more than {_MAX_REFERENCES} items.", param="input")
    found = {each: f"{RESPONSE_ID}{ours[1]}" for each in items if (ours := _OURS.fullmatch(each))}
    return {**found, **await store.responses_of([each for each in items if each not in found], owner)}


def is_indexed(item_id: Any) -> bool:
    """Whether the response of an item must be looked up."""
    return isinstance(item_id, str) and not _OURS.fullmatch(item_id)


def _references(body: bytes) -> tuple[Any, list[str]]:
    """The response and the items that a request refers to."""
    if PREVIOUS.encode() not in body and REFERENCE.encode() not in body:
        return None, []
    try:
        request = _request.decode(body)
        items = _items.decode(request.input) if bytes(request.input).startswith(b"[") else []
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None, []
    named = [each.id for each in items if each.type == REFERENCE and isinstance(each.id, str)]
    return request.previous_response_id, list(dict.fromkeys(named))


def _too_large(most: int, param: str) -> BodyTooLarge:
    return BodyTooLarge(f"The stored items that the request refers to have more than {most} bytes.", param=param)
