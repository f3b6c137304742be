"""Reads and deletes stored responses: `/v1/responses/ID` and `/v1/responses/ID/input_items`."""

import re
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.responses import Response

from gateway.errors import InvalidField, NotFound
from gateway.state.response_store import ResponseStore, StoredResponse
from gateway.web.routes import json_response
from twolane.process import exact_json
from twolane.process.api_keys import Key

MAX_ITEMS: Final = 100  # of one page
_DEFAULT_ITEMS: Final = "20"
_ORDERS: Final = ("asc", "desc")
_LIMIT: Final = re.compile(r"[1-9][0-9]{0,2}")


def add_response_routes(app: FastAPI, store: ResponseStore | None) -> None:
    """Without a store, no response is found."""

    async def found(request: Request, response_id: str) -> StoredResponse:
        stored = None if store is None else await store.get(response_id, _owner(request))
        if stored is None:
            raise _not_found(response_id)
        return stored

    @app.get("/v1/responses/{response_id}")
    async def response(request: Request, response_id: str) -> Response:
        """A stored response."""
        if request.query_params.get("stream") == "true":
            raise InvalidField("'stream' is not supported: a stored response has ended.", param="stream")
        return Response((await found(request, response_id)).response, media_type="application/json")

    @app.delete("/v1/responses/{response_id}")
    async def delete(request: Request, response_id: str) -> Response:
        """Delete a stored response."""
        if store is None or not await store.delete(response_id, _owner(request)):
            raise _not_found(response_id)
        return json_response({"id": response_id, "object": "response.deleted", "deleted": True})

    @app.get("/v1/responses/{response_id}/input_items")
    async def input_items(request: Request, response_id: str) -> Response:
        """The items that led to a stored response, a page at a time."""
        items = exact_json.loads((await found(request, response_id)).items)
        named = [_named(item, f"item_{response_id.partition('_')[2]}_{number}") for number, item in enumerate(items)]
        return json_response(_page(named, request.query_params))


def _owner(request: Request) -> str | None:
    key: Key | None = request.scope.get("state", {}).get("key")
    return key.name if key else None


def _not_found(response_id: str) -> NotFound:
    text = f"Response {response_id!r} not found: the gateway does not store it, or no longer, or not for this API key."
    return NotFound(text, param="response_id")


def _named(item: dict[str, Any], item_id: str) -> dict[str, Any]:
    """The item with an id, a type, and a content that is a list."""
    named = {"type": "message", "id": item_id, **item}
    if isinstance(text := named.get("content"), str):
        kind = "output_text" if named.get("role") == "assistant" else "input_text"
        named["content"] = [{"type": kind, "text": text}]
    return named


def _page(items: list[dict[str, Any]], params: Any) -> dict[str, Any]:
    order, limit, after = params.get("order", "desc"), params.get("limit", _DEFAULT_ITEMS), params.get("after")
    if order not in _ORDERS:
        raise InvalidField(f"'order' must be one of {', '.join(_ORDERS)}.", param="order")
    if not _LIMIT.fullmatch(limit) or int(limit) > MAX_ITEMS:
        raise InvalidField(f"'limit' must be a number from 1 to {MAX_ITEMS}.", param="limit")
    listed = items if order == "asc" else items[::-1]
    ids = [item["id"] for item in listed]
    if after is not None and after not in ids:
        raise InvalidField("'after' names no item of this response.", param="after")
    start = 0 if after is None else ids.index(after) + 1
    page = listed[start : start + int(limit)]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": start + len(page) < len(listed),
    }
