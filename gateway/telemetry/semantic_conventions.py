"""Attribute names of spans: OpenTelemetry's semantic conventions and Twolane's own.

The conventions for generative models are in development, in a repository of their own since 2026 (open-
telemetry/semantic-conventions-genai, read at 004902b); the Python package contains older ones marked as deprecated,
so the names are written out here.
"""

from collections.abc import Mapping
from typing import Final

OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_STREAM: Final = "gen_ai.request.stream"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"  # seconds
ERROR_TYPE: Final = "error.type"
HTTP_METHOD: Final = "http.request.method"
URL_PATH: Final = "url.path"

REQUEST_ID: Final = "twolane.request.id"
TASK: Final = "twolane.task"
CONFIDENCE: Final = "twolane.task.confidence"
EVIDENCE: Final = "twolane.task.evidence"
ROUTE: Final = "twolane.route"
TARGET: Final = "twolane.target"
OUTCOME: Final = "twolane.outcome"
FALLBACK: Final = "twolane.fallback"
POLICY: Final = "twolane.policy"
PRIVATE: Final = "twolane.private"
LOCATIONS: Final = "twolane.locations"
SCHEMA: Final = "twolane.schema"
COST: Final = "twolane.cost"  # dollars
OVERHEAD: Final = "twolane.overhead"  # seconds
DETAIL: Final = "twolane.detail"
HEDGE: Final = "twolane.hedge"
PROBE: Final = "twolane.probe"
ANSWER_CONFIDENCE: Final = "twolane.answer.confidence"

SKIPPED: Final = "skipped"  # events
FIRST_BYTE: Final = "first_byte"

CHAT: Final = "chat"  # values
TWOLANE: Final = "twolane"
_OPERATIONS: Final[Mapping[str, str]] = {
    "/v1/completions": "text_completion",
    "/v1/fim/completions": "text_completion",
    "/v1/embeddings": "embeddings",
    "/v1/decisions": "decisions",  # no convention yet
}


def operation_of(path: str) -> str:
    """The operation of a request to this path; edits are chats."""
    return _OPERATIONS.get(path, CHAT)
