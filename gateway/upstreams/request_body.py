"""The client's body, edited for one target: its own model name in, everything of ours out, nothing else touched."""

from collections.abc import Iterable
from typing import Any, Final

import orjson

from gateway.enums import Capability, Kind
from gateway.types import Call, Capabilities

_OUR_METADATA: Final = ("task", "private")
# Dropped where a target lacks them, since the answer is as right without: a help, and OpenAI's best-effort promise.
_HARMLESS: Final = {Capability.PREDICTION: "prediction", Capability.SEED: "seed"}


def body_for(call: Call, capabilities: Capabilities | None) -> bytes:
    """What to send. `capabilities` None means unknown: then nothing is dropped."""
    return orjson.dumps(document_for(call, capabilities))


def document_for(call: Call, capabilities: Capabilities | None) -> dict[str, Any]:
    """The same before it is bytes, for doors that speak otherwise."""
    target, query = call.target, call.query
    document: dict[str, Any] = orjson.loads(query.body)
    document["model"] = target.model
    _strip_metadata(document)
    _spell_schema(document)
    if query.stream:
        # Token counts and confidence come with the usage; a client that did not ask for it will not see it.
        document["stream_options"] = {**(document.get("stream_options") or {}), "include_usage": True}
    if target.kind is not Kind.WORKER:
        document.pop("diffusion", None)
    elif target.diffusion:
        _wish(document, target.diffusion)
    if capabilities is not None:
        for capability, field in _HARMLESS.items():
            if capability not in capabilities.supported:
                document.pop(field, None)
    if call.validation_error is not None:
        _tell(
            document, f"An earlier answer to this was rejected: {call.validation_error}. Answer again so that it fits."
        )
    return document


def _strip_metadata(document: dict[str, Any]) -> None:
    metadata = document.get("metadata")
    if not metadata:
        return
    theirs = {name: value for name, value in metadata.items() if name not in _OUR_METADATA}
    if theirs:
        document["metadata"] = theirs
    else:
        del document["metadata"]


def _wish(document: dict[str, Any], wished: Iterable[tuple[str, float]]) -> None:
    """What the policy wishes of a worker, under what the request wishes; an anchor needs a text to hold on to."""
    edits = document.get("prediction") is not None
    usual = {name: value for name, value in wished if edits or name != "anchor"}
    document["diffusion"] = {**usual, **(document.get("diffusion") or {})}


def _tell(document: dict[str, Any], note: str) -> None:
    """At the end of the last user turn: chat templates that want turns to alternate accept no further one."""
    messages = document["messages"]
    last = next((message for message in reversed(messages) if message.get("role") == "user"), None)
    if last is None:
        messages.append({"role": "user", "content": note})
    elif isinstance(last.get("content"), list):
        last["content"] = [*last["content"], {"type": "text", "text": note}]
    else:
        last["content"] = f"{last.get('content') or ''}\n\n{note}"


def _spell_schema(document: dict[str, Any]) -> None:
    """vLLM's `structured_outputs.json` in OpenAI's words, which every target with schemas understands."""
    structured = document.get("structured_outputs")
    if structured and structured.get("json") is not None:
        named = {"name": "answer", "schema": structured["json"]}
        document["response_format"] = {"type": "json_schema", "json_schema": named}
        del document["structured_outputs"]
