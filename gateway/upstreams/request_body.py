"""Rewrites the client's body for one target: sets its model name, removes the gateway's fields and the parameters that
the target does not take, and keeps everything else byte for byte."""

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, Final

import msgspec
from msgspec import Raw

from gateway.beyond_chat import A_CHAT, RESPONSES_PATH
from gateway.enums import Decoding, Kind
from gateway.parameters import (
    CACHE_CONTROL,
    FORMAT_FIELDS,
    HANDLED,
    NAME,
    NESTED,
    NESTS,
    PARAMETERS,
    Parameter,
    is_left_to_server,
    is_without_effect,
    not_taken,
    passes_responses,
)
from gateway.routing.metadata_hints import without_hints
from gateway.types import Call, Capabilities, Target
from gateway.upstreams.bodies.decision_body import write_decision
from gateway.upstreams.bodies.response_body import write_response
from gateway.upstreams.messages_options import write_options
from gateway.upstreams.output_format import FIELDS, write_format
from gateway.upstreams.text_prompts import write_prompt

_WRITTEN: Final = frozenset({"stream_options", "metadata", "diffusion", *FORMAT_FIELDS, *NESTS})  # by `fields_for`
_USAGE: Final = b',"stream_options":{"include_usage":true}'
_MAX_CACHED: Final = 256
_EMPTY_STARTS: Final = (b"null", b"[", b"{")
_MAX_EMPTY_BYTES: Final = 256  # a longer value is not empty
_MAX_SEED: Final = 2**63 - 1  # servers take 64-bit integers
_decode: Final = msgspec.json.Decoder(dict[str, Raw]).decode
_encode: Final = msgspec.json.encode
_read: Final = msgspec.json.decode

Fields = dict[str, Raw]


def body_for(call: Call, capabilities: Capabilities | None, *, stream_options: bool = True) -> bytes:
    """The body to send. With unknown `capabilities` (None) only ignored parameters are left out. `stream_options`: the
    target takes them.

    If the client wrote no field that would change for this target, and nothing else is to be added, it is the client's
    own with another model, and with the option that asks a stream for its usage."""
    query, target = call.query, call.target
    spans = query.spans
    if spans is None or query.beyond_chat is not A_CHAT or target.kind is not _OPENAI or call.ignored:
        return _rewritten(call, capabilities, stream_options=stream_options)
    known = _KEPT.get(id(capabilities))
    kept = known[1] if known is not None else _kept_fields(capabilities)
    if (
        not (call.wants_logprobs or call.choice is not None or call.validation_error is not None or query.output_format)
        and spans.keys() <= kept
        and NESTED.isdisjoint(query.parameters.names)
    ):
        start, end = spans["model"]
        usage = _USAGE if query.stream and stream_options else b""
        return b"".join((query.body[:start], _model(target.model), usage, query.body[end:]))
    return _rewritten(call, capabilities, stream_options=stream_options)


def _rewritten(call: Call, capabilities: Capabilities | None, *, stream_options: bool) -> bytes:
    fields = fields_for(call, capabilities)
    if not stream_options:
        fields.pop("stream_options", None)
    return _encode(fields)


_OPENAI: Final = Kind.OPENAI  # finding a member in its class takes 0.2 µs


@lru_cache(maxsize=1024)
def _model(name: str) -> bytes:
    return _encode(name)


_KEPT: Final[dict[int, tuple[Capabilities | None, frozenset[str]]]] = {}


def _kept_fields(capabilities: Capabilities | None) -> frozenset[str]:
    """Fields of a request that a target with these capabilities is sent as they are. Kept by identity, as those of
    `not_taken` are."""
    if len(_KEPT) >= _MAX_CACHED:
        _KEPT.clear()
    unwanted = not_taken(capabilities) if capabilities is not None else {}
    kept = (HANDLED | PARAMETERS.keys()) - unwanted.keys() - _WRITTEN
    _KEPT[id(capabilities)] = capabilities, kept  # which keeps the id from being reused
    return kept


def document_for(call: Call, capabilities: Capabilities | None) -> dict[str, Any]:
    """The same as an object, for clients with another API."""
    return {name: _read(value) for name, value in fields_for(call, capabilities).items()}


def fields_for(call: Call, capabilities: Capabilities | None) -> Fields:
    """The fields of the body to send, each as JSON."""
    target, query = call.target, call.query
    if query.beyond_chat.response_body is not None and passes_responses(target, capabilities, query):
        return _response_fields(call, capabilities)
    fields: Fields = _decode(query.body)
    fields["model"] = _raw(target.model)
    _strip_metadata(fields)
    _write_format(fields, call)
    if query.beyond_chat.source is not None and target.kind is Kind.WORKER and "prediction" not in target.ignore:
        fields.setdefault("prediction", _raw({"type": "content", "content": query.beyond_chat.source}))
    _leave_out(fields, call, capabilities)
    if query.beyond_chat.path == RESPONSES_PATH and _takes_store(target):
        fields["store"] = _raw(False)  # whatever the default there: the gateway answers for what it keeps itself
    if call.wants_logprobs:
        fields["logprobs"] = _raw(True)
    if call.choice is not None:
        _request_one_choice(fields, call.choice)
    if query.stream:
        # Token counts and confidence arrive with the usage; it is removed for clients that did not request it.
        fields["stream_options"] = _raw({**(_value(fields, "stream_options") or {}), "include_usage": True})
    _write_denoising(fields, target)
    if query.beyond_chat.prompts:
        write_prompt(fields, call, capabilities)
    if query.beyond_chat.decision is not None:
        write_decision(fields, call, capabilities)
    if query.beyond_chat.options is not None:
        write_options(fields, call, capabilities, query.beyond_chat.options)
    if call.validation_error is not None and "messages" in fields:
        note = f"An earlier answer to this was rejected: {call.validation_error}. Answer again so that it fits."
        _edit_messages(fields, lambda messages: _append_to_last_user_message(messages, note))
    return fields


def _response_fields(call: Call, capabilities: Capabilities | None) -> Fields:
    """The client's own request, for a target with the same API."""
    fields: Fields = _decode(call.query.beyond_chat.response_body or b"{}")
    fields["model"] = _raw(call.target.model)
    _strip_metadata(fields)
    _leave_out(fields, call, capabilities)
    write_response(fields, call)
    return fields


def _leave_out(fields: Fields, call: Call, capabilities: Capabilities | None) -> None:
    """Remove ignored parameters and, if the target does not take them, hints and values without effect."""
    for name in call.ignored:
        fields.pop(name, None)
    if call.target.kind is not Kind.OPENAI:  # the others refuse a field that they do not know
        for name in [name for name, value in fields.items() if _is_without_effect(name, value)]:
            del fields[name]
    unwanted = not_taken(capabilities) if capabilities is not None else {}
    for name in fields.keys() & unwanted.keys():
        if not _is_wanted(unwanted[name], _read(fields[name]), capabilities):
            del fields[name]
    for name in NESTED & call.query.parameters.names:
        if name in unwanted or name in call.ignored:
            _REMOVE[name](fields)


def _takes_store(target: Target) -> bool:
    """Known of OpenAI's API only: other servers may refuse a field that the client did not send."""
    return target.kind is Kind.OPENAI and target.engine == "openai" and "store" not in target.ignore


def _is_without_effect(name: str, value: Raw) -> bool:
    if memoryview(value).nbytes > _MAX_EMPTY_BYTES:
        return False
    return bytes(value).startswith(_EMPTY_STARTS) and is_without_effect(name, _read(value))


def _is_wanted(parameter: Parameter, value: Any, capabilities: Capabilities | None) -> bool:
    """Whether to send a parameter that the target is not known to take."""
    if parameter.is_hint or parameter.has_effect(value):
        return not parameter.is_hint
    is_open = capabilities is not None and is_left_to_server(parameter, capabilities)
    return is_open and parameter.may_have_effect(value)


def _request_one_choice(fields: Fields, choice: int) -> None:
    """With a seed of its own: equal seeds would give equal choices."""
    fields.pop("n", None)
    seed = _value(fields, "seed")
    if isinstance(seed, int):
        fields["seed"] = _raw(seed + choice if seed + choice <= _MAX_SEED else seed - choice)


def _remove_cache_control(fields: Fields) -> None:
    """Of messages, of parts of their content, and of tools."""
    for name in ("messages", "tools"):
        if entries := _value(fields, name):
            for entry in entries:
                parts = entry.get("content")
                for each in (entry, *(parts if isinstance(parts, list) else ())):
                    each.pop(CACHE_CONTROL, None)
            fields[name] = _raw(entries)


def _remove_names(fields: Fields) -> None:
    _edit_messages(fields, lambda messages: [message.pop("name", None) for message in messages])


_REMOVE: Final = {NAME: _remove_names, CACHE_CONTROL: _remove_cache_control}


def _edit_messages(fields: Fields, edit: Callable[[list[dict[str, Any]]], object]) -> None:
    messages = _read(fields["messages"])
    edit(messages)
    fields["messages"] = _raw(messages)


def _raw(value: Any) -> Raw:
    return Raw(_encode(value))


def _value(fields: Fields, name: str) -> Any:
    return _read(fields[name]) if name in fields else None


def _strip_metadata(fields: Fields) -> None:
    metadata = _read(fields["metadata"]) if "metadata" in fields else None
    if not metadata:
        return
    remaining = without_hints(metadata)
    if remaining:
        fields["metadata"] = _raw(remaining)
    else:
        del fields["metadata"]


def _write_denoising(fields: Fields, target: Target) -> None:
    """The object `diffusion`, which only workers take."""
    if target.kind is not Kind.WORKER:
        fields.pop("diffusion", None)
    elif Decoding.of_model(target.model) is not Decoding.DIFFUSION:
        _leave_out_denoising(fields)
    elif target.diffusion:
        _apply_decoding_defaults(fields, target.diffusion)


def _apply_decoding_defaults(fields: Fields, configured: Iterable[tuple[str, Any]]) -> None:
    """The policy's decoding parameters, overridden by the request's. `anchor` applies only with a `prediction`."""
    edits = _value(fields, "prediction") is not None
    defaults = {name: value for name, value in configured if edits or name != "anchor"}
    given = _value(fields, "diffusion") or {}
    if "under_load" in defaults:
        defaults["under_load"] = _limits_for(dict(defaults["under_load"]), given)
    fields["diffusion"] = _raw({**defaults, **given})


def _limits_for(limits: dict[str, float], given: dict[str, Any]) -> dict[str, float]:
    """The policy's limits under load, without one that is stricter than the request's own value: no load moves that."""
    own = given.get("entropy_bound")
    if isinstance(own, int | float) and own > limits.get("entropy_bound", own):
        del limits["entropy_bound"]
    return limits


def _leave_out_denoising(fields: Fields) -> None:
    """A worker that does not denoise refuses all decoding parameters but the deadline."""
    given = _value(fields, "diffusion")
    if not isinstance(given, dict):
        return
    fields.pop("diffusion")
    if "deadline_ms" in given:
        fields["diffusion"] = _raw({"deadline_ms": given["deadline_ms"]})


def _append_to_last_user_message(messages: list[dict[str, Any]], note: str) -> None:
    """Appended to the last user message, because some chat templates require roles to alternate."""
    last = next((message for message in reversed(messages) if message.get("role") == "user"), None)
    if last is None:
        messages.append({"role": "user", "content": note})
    elif isinstance(last.get("content"), list):
        last["content"] = [*last["content"], {"type": "text", "text": note}]
    else:
        last["content"] = f"{last.get('content') or ''}\n\n{note}"


def _write_format(fields: Fields, call: Call) -> None:
    """The output format as the target spells it. Fields that do not change keep their bytes."""
    wanted = call.query.output_format
    if wanted is None:
        return
    given = {name: _read(fields[name]) for name in FIELDS & fields.keys()}
    written = {**given}
    write_format(written, wanted, call.target)
    for name in given.keys() - written.keys():
        del fields[name]
    fields.update({name: _raw(value) for name, value in written.items() if given.get(name) != value})
