"""Responses written from chat completions, whole and as a stream of events."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.errors import GatewayError
from gateway.policy_types import allowed_by
from gateway.state.response_store import ResponseStore, StoredResponse
from gateway.types import Query
from gateway.upstreams.answers import lenient
from gateway.upstreams.answers.kept_bytes import keep_bytes
from gateway.web import sse
from gateway.web.apis.responses.history import RESPONSE_ID, is_indexed
from gateway.web.apis.responses.input_items import REASONING_ID
from gateway.web.apis.responses.output_items import REASONING, REFUSAL, TEXT, CallItem, ContentItem, Event, Item
from gateway.web.apis.responses.passed import PassedResponse
from gateway.web.apis.responses.tools import namespaces_of

_INCOMPLETE: Final = {"length": "max_output_tokens", "content_filter": "content_filter"}
_RUNNING: Final = "in_progress"
_DEFAULTS: Final[Mapping[str, Any]] = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "safety_identifier": None,
    "service_tier": "default",
    "temperature": 1.0,
    "tool_choice": "auto",
    "top_logprobs": 0,
    "top_p": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "truncation": "disabled",
    "user": None,
}
# Error codes that OpenAI's API and this gateway share; all others are a `server_error` there.
_CODES: Final = frozenset({"rate_limit_exceeded", "insufficient_quota", "context_length_exceeded"})


class ResponseWriter:
    """See `client_api.Writer`. `wall_s` is the time in seconds since the epoch.

    A complete response is stored before its end is sent, unless the query is private.
    """

    def __init__(self, query: Query, wall_s: float, *, store: ResponseStore | None = None) -> None:
        self._query = query
        is_stored = query.beyond_chat.items_to_store is not None and not query.private
        self._store = store if is_stored else None
        self._created = int(wall_s)
        self._key = query.request_id.removeprefix("req_")
        self._output = _Output(self._key, namespaces_of(query.beyond_chat.repeated.get("tools")))
        self._model = query.model
        self._tier: str | None = None
        self._usage: dict[str, Any] | None = None
        self._reason: str | None = None  # why the model stopped
        self._sequence = 0
        self._passed: PassedResponse | None = None  # of a target with this API
        self._whole: dict[str, Any] | None = None
        self._closing: bytes | None = None  # the events that complete the items

    def whole(self, completion: bytes, original: bytes = b"") -> bytes:
        """The whole answer."""
        if self._whole is None:
            self._whole = lenient.load(original) if original else self._written(completion)
        return lenient.dump({**self._whole, **self._own})

    def events(self, chunk: bytes, original: bytes = b"") -> bytes:
        """The events for one chunk, whose texts stay until the end: its last event repeats them."""
        if original:
            self._passed = self._passed or PassedResponse(self._own)
            return self._passed.event(original)
        keep_bytes(len(chunk))
        document = lenient.load(chunk)
        self._note(document)
        return self._begun() + b"".join(self._event(*each) for each in self._read(document, is_chunk=True))

    async def keep(self, completion: bytes = b"", original: bytes = b"") -> None:
        """See `client_api.Writer`. An answer that could not be stored says so."""
        items = self._query.beyond_chat.items_to_store
        if self._store is None or items is None:
            return
        if completion:
            response = self.whole(completion, original)
        elif self._passed is not None:
            response = self._passed.response()
        else:
            self._closed()
            response = lenient.dump(self._response(self._status))
        indexed = tuple(filter(is_indexed, (each.get("id") for each in lenient.load(response)["output"])))
        stored = StoredResponse(
            owner=self._query.principal,
            response=response,
            items=items,
            item_ids=indexed,
            locations=allowed_by(self._query.locations),
        )
        if not await self._store.put(self._id, stored):
            self._store = None

    def end(self) -> bytes:
        """The end of the last items, and the whole response."""
        if self._passed is not None:
            return self._passed.end(self._own)
        return self._closed() + self._lifecycle(self._status)

    def _written(self, completion: bytes) -> dict[str, Any]:
        document = lenient.load(completion)
        self._note(document)
        list(self._read(document, is_chunk=False))
        list(self._output.close(is_incomplete=self._is_incomplete))
        return self._response(self._status)

    def _closed(self) -> bytes:
        """The events that complete the items; once."""
        if self._closing is None:
            begun = self._begun()
            closed = self._output.close(is_incomplete=self._is_incomplete)
            self._closing = begun + b"".join(self._event(*each) for each in closed)
        return self._closing

    def failed(self, error: GatewayError) -> bytes:
        """The response as far as it came, and the error."""
        code = error.code if error.code in _CODES else "server_error"
        failed = {"error": {"code": code, "message": error.message}}
        if self._passed is not None:
            self._sequence = self._passed.sequence
            begun = self._event("response.failed", {"response": self._passed.failed(failed)})
        else:
            begun = self._begun()
            self._output.stop()
            begun += self._lifecycle("failed", **failed)
        described = {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}
        flat = {name: described[name] for name in ("code", "message", "param")}
        return begun + self._event("error", {**flat, "error": described})

    @property
    def _id(self) -> str:
        return f"{RESPONSE_ID}{self._key}"

    @property
    def _own(self) -> dict[str, Any]:
        """What the gateway answers for in a response that a target wrote."""
        repeated = self._query.beyond_chat.repeated
        return {
            "id": self._id,
            "store": self._store is not None,
            "previous_response_id": repeated.get("previous_response_id"),
            "metadata": repeated.get("metadata", {}),
        }

    @property
    def _is_incomplete(self) -> bool:
        return self._reason in _INCOMPLETE

    @property
    def _status(self) -> str:
        return "incomplete" if self._is_incomplete else "completed"

    def _note(self, document: Mapping[str, Any]) -> None:
        """What concerns the response as a whole."""
        self._model = document.get("model") or self._model
        self._tier = document.get("service_tier") or self._tier
        if isinstance(usage := document.get("usage"), dict):
            self._usage = _usage(usage)

    def _read(self, document: Mapping[str, Any], *, is_chunk: bool) -> Iterator[Event]:
        for position, choice in enumerate(document["choices"]):
            if lenient.index_of(choice, position):
                continue
            body = lenient.body_of(choice, is_chunk=is_chunk)
            yield from self._output.add(body, choice.get("logprobs"))
            if choice.get("finish_reason"):
                self._reason = choice["finish_reason"]

    def _begun(self) -> bytes:
        """The events that precede all others."""
        if self._sequence:
            return b""
        return self._lifecycle("created") + self._lifecycle(_RUNNING)

    def _lifecycle(self, event: str, **changes: Any) -> bytes:
        status = _RUNNING if event == "created" else event
        return self._event(f"response.{event}", {"response": {**self._response(status), **changes}})

    def _event(self, kind: str, fields: Mapping[str, Any]) -> bytes:
        data = lenient.dump({"type": kind, "sequence_number": self._sequence, **fields})
        self._sequence += 1
        return sse.typed_event(data)

    def _response(self, status: str) -> dict[str, Any]:
        cause = _INCOMPLETE.get(self._reason or "") if status == "incomplete" else None
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "completed_at": self._created if status == "completed" else None,
            "status": status,
            "background": False,
            "store": self._store is not None,
            "error": None,
            "incomplete_details": None if cause is None else {"reason": cause},
            "model": self._model,
            **_DEFAULTS,
            **self._query.beyond_chat.repeated,
            **({} if self._tier is None else {"service_tier": self._tier}),
            "output": self._output.documents(),
            "usage": None if status == _RUNNING else self._usage,
        }


@dataclass(slots=True)
class _PendingCall:
    """A call whose name has not arrived; `item` is None until then."""

    call_id: str = ""
    texts: list[str] = field(default_factory=list)
    item: CallItem | None = None


class _Output:
    """The output items, in the order in which they begin."""

    def __init__(self, key: str, namespaces: Mapping[str, tuple[str, str]]) -> None:
        self._key = key
        self._namespaces = namespaces
        self._items: list[tuple[Item, str]] = []  # with the status of each
        self._content: ContentItem | None = None  # that the next text may continue
        self._calls: dict[int, _PendingCall] = {}

    def documents(self) -> list[dict[str, Any]]:
        return [item.document(status) for item, status in self._items]

    def add(self, body: Mapping[str, Any], logprobs: Any) -> Iterator[Event]:
        """What a message, or the delta of one, adds."""
        if thought := lenient.thought_of(body):
            yield from self._add_text(REASONING, thought)
        records = _logprobs(logprobs)
        if (text := body.get("content")) or records:
            yield from self._add_text(TEXT, text or "", records, _annotations(body))
        if refusal := body.get("refusal"):
            yield from self._add_text(REFUSAL, refusal)
        for position, call in enumerate(body.get("tool_calls") or ()):
            yield from self._add_call(lenient.index_of(call, position), call)

    def close(self, *, is_incomplete: bool) -> Iterator[Event]:
        """Complete all items; only the last one can be cut."""
        for pending in self._calls.values():
            if pending.item is None:
                yield from self._begin_call(pending, "", is_custom=False)
        if not self._items:
            yield from self._add_text(TEXT, "")
        for index, (_, status) in enumerate(self._items):
            is_last = index == len(self._items) - 1
            if status == _RUNNING:
                yield from self._done(index, "incomplete" if is_incomplete and is_last else "completed")

    def stop(self) -> None:
        """The items that are not complete stay so."""
        self._items = [(item, "incomplete" if status == _RUNNING else status) for item, status in self._items]

    def _add_text(
        self, kind: str, text: str, logprobs: Iterable[Any] = (), annotations: Iterable[Any] = ()
    ) -> Iterator[Event]:
        is_reasoning = kind == REASONING
        if self._content is None or self._content.is_reasoning is not is_reasoning:
            yield from self._end_content()
            item_id = f"{REASONING_ID if is_reasoning else 'msg_'}{self._key}_{len(self._items)}"
            self._content = ContentItem(item_id, len(self._items), is_reasoning=is_reasoning)
            yield self._begin(self._content)
        yield from self._located(self._content, self._content.feed(kind, text, logprobs, annotations))

    def _add_call(self, number: int, call: Mapping[str, Any]) -> Iterator[Event]:
        pending = self._calls.setdefault(number, _PendingCall())
        name, fragment, is_custom = lenient.call_of(call)
        if isinstance(call.get("id"), str):
            pending.call_id = pending.call_id or call["id"]
        if pending.item is None:
            pending.texts.append(fragment)
            if name:
                yield from self._begin_call(pending, name, is_custom=is_custom)
        else:
            yield from self._located(pending.item, pending.item.feed(fragment))

    def _begin_call(self, pending: _PendingCall, name: str, *, is_custom: bool) -> Iterator[Event]:
        yield from self._end_content()
        place = f"{self._key}_{len(self._items)}"
        item_id = f"{'ctc' if is_custom else 'fc'}_{place}"
        call_id = pending.call_id or f"call_{place}"
        names = self._namespaces.get(name, (None, name))
        pending.item = CallItem(item_id, len(self._items), call_id=call_id, names=names, is_custom=is_custom)
        yield self._begin(pending.item)
        yield from self._located(pending.item, pending.item.feed("".join(pending.texts)))

    def _end_content(self) -> Iterator[Event]:
        if self._content is not None:
            yield from self._done(self._content.index, "completed")
            self._content = None

    def _begin(self, item: Item) -> Event:
        self._items.append((item, _RUNNING))
        return "response.output_item.added", {"output_index": item.index, "item": item.document(_RUNNING)}

    def _done(self, index: int, status: str) -> Iterator[Event]:
        item, _ = self._items[index]
        yield from self._located(item, item.close())
        self._items[index] = item, status
        yield "response.output_item.done", {"output_index": index, "item": item.document(status)}

    def _located(self, item: Item, events: Iterable[Event]) -> Iterator[Event]:
        place = {"item_id": item.id, "output_index": item.index}
        for kind, fields in events:
            yield kind, {**place, **fields}


def _logprobs(given: Any) -> list[dict[str, Any]]:
    """Records of a chat, with the lists that clients of this API require."""
    return [_record(each) for each in _objects(given.get("content"))] if isinstance(given, dict) else []


def _record(given: Mapping[str, Any]) -> dict[str, Any]:
    tops = [{**each, "bytes": each.get("bytes") or []} for each in _objects(given.get("top_logprobs"))]
    return {**given, "bytes": given.get("bytes") or [], "top_logprobs": tops}


def _annotations(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A chat nests the fields of an annotation under its type."""
    nested = [(each.get("type"), each.get(str(each.get("type")))) for each in _objects(body.get("annotations"))]
    return [{"type": kind, **fields} for kind, fields in nested if isinstance(fields, dict)]


def _objects(given: Any) -> list[dict[str, Any]]:
    """The objects in a list; none in a value of another type."""
    return [each for each in given if isinstance(each, dict)] if isinstance(given, list) else []


def _usage(given: Mapping[str, Any]) -> dict[str, Any]:
    sent, received = _count(given.get("prompt_tokens")), _count(given.get("completion_tokens"))
    prompt, completion = (_details(given.get(f"{kind}_tokens_details")) for kind in ("prompt", "completion"))
    known = {"prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details", "completion_tokens_details"}
    return {
        "input_tokens": sent,
        "input_tokens_details": {
            "cached_tokens": _count(prompt.get("cached_tokens")),
            "cache_write_tokens": _count(prompt.get("cache_write_tokens")),
        },
        "output_tokens": received,
        "output_tokens_details": {"reasoning_tokens": _count(completion.get("reasoning_tokens"))},
        "total_tokens": _count(given.get("total_tokens")) or sent + received,
        **{name: value for name, value in given.items() if name not in known},  # such as a worker's confidence
    }


def _count(given: Any) -> int:
    return lenient.count_of(given) or 0


def _details(given: Any) -> Mapping[str, Any]:
    return given if isinstance(given, dict) else {}
