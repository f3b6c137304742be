"""The client's body, edited for one target: its own model name in, everything of ours out, nothing else touched."""

from typing import Any, Final

import orjson

from gateway.records import Capabilities, Query, Target
from gateway.words import Capability, Kind

_OUR_METADATA: Final = ("task", "private")
# Dropped where a target lacks them, since the answer is as right without: a help, and OpenAI's best-effort promise.
_HARMLESS: Final = {Capability.PREDICTION: "prediction", Capability.SEED: "seed"}


def body_for(target: Target, query: Query, capabilities: Capabilities | None) -> bytes:
    """What to send. `capabilities` None means unknown: then nothing is dropped."""
    document: dict[str, Any] = orjson.loads(query.body)
    document["model"] = target.model
    _strip_metadata(document)
    _spell_schema(document)
    if query.stream:
        # Token counts and confidence come with the usage; a client that did not ask for it will not see it.
        document["stream_options"] = {**(document.get("stream_options") or {}), "include_usage": True}
    if target.kind is not Kind.WORKER:
        document.pop("diffusion", None)
    if capabilities is not None:
        for capability, field in _HARMLESS.items():
            if capability not in capabilities.words:
                document.pop(field, None)
    return orjson.dumps(document)


def _strip_metadata(document: dict[str, Any]) -> None:
    metadata = document.get("metadata")
    if not metadata:
        return
    theirs = {name: value for name, value in metadata.items() if name not in _OUR_METADATA}
    if theirs:
        document["metadata"] = theirs
    else:
        del document["metadata"]


def _spell_schema(document: dict[str, Any]) -> None:
    """vLLM's `structured_outputs.json` in OpenAI's words, which every target with schemas understands."""
    structured = document.get("structured_outputs")
    if structured and structured.get("json") is not None:
        named = {"name": "answer", "schema": structured["json"]}
        document["response_format"] = {"type": "json_schema", "json_schema": named}
        del document["structured_outputs"]
