"""Rewrites the client's body for one target: sets its model name, removes the gateway's fields, keeps everything
else."""

from collections.abc import Iterable
from typing import Any, Final

from gateway.enums import Capability, Kind
from gateway.routing.metadata_hints import without_hints
from gateway.types import Call, Capabilities
from gateway.upstreams.output_format import write_format
from twolane.process import exact_json

# Dropped for targets without the capability: both are hints that do not affect correctness.
_OPTIONAL: Final = {Capability.PREDICTION: "prediction", Capability.SEED: "seed"}


def body_for(call: Call, capabilities: Capabilities | None) -> bytes:
    """The body to send. With unknown `capabilities` (None) no field is dropped."""
    return exact_json.dumps(document_for(call, capabilities))


def document_for(call: Call, capabilities: Capabilities | None) -> dict[str, Any]:
    """The same before serialisation, for clients with another API."""
    target, query = call.target, call.query
    document: dict[str, Any] = exact_json.loads(query.body)
    document["model"] = target.model
    _strip_metadata(document)
    if query.output_format is not None:
        write_format(document, query.output_format, target)
    if query.stream:
        # Token counts and confidence arrive with the usage; it is removed for clients that did not request it.
        document["stream_options"] = {**(document.get("stream_options") or {}), "include_usage": True}
    if target.kind is not Kind.WORKER:
        document.pop("diffusion", None)
    elif target.diffusion:
        _apply_decoding_defaults(document, target.diffusion)
    if capabilities is not None:
        for capability, field in _OPTIONAL.items():
            if capability not in capabilities.supported:
                document.pop(field, None)
    if call.validation_error is not None:
        _append_to_last_user_message(
            document, f"An earlier answer to this was rejected: {call.validation_error}. Answer again so that it fits."
        )
    return document


def _strip_metadata(document: dict[str, Any]) -> None:
    metadata = document.get("metadata")
    if not metadata:
        return
    remaining = without_hints(metadata)
    if remaining:
        document["metadata"] = remaining
    else:
        del document["metadata"]


def _apply_decoding_defaults(document: dict[str, Any], configured: Iterable[tuple[str, float]]) -> None:
    """The policy's decoding parameters, overridden by the request's. `anchor` applies only with a `prediction`."""
    edits = document.get("prediction") is not None
    defaults = {name: value for name, value in configured if edits or name != "anchor"}
    document["diffusion"] = {**defaults, **(document.get("diffusion") or {})}


def _append_to_last_user_message(document: dict[str, Any], note: str) -> None:
    """Appended to the last user message, because some chat templates require roles to alternate."""
    messages = document["messages"]
    last = next((message for message in reversed(messages) if message.get("role") == "user"), None)
    if last is None:
        messages.append({"role": "user", "content": note})
    elif isinstance(last.get("content"), list):
        last["content"] = [*last["content"], {"type": "text", "text": note}]
    else:
        last["content"] = f"{last.get('content') or ''}\n\n{note}"
