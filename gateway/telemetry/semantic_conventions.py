"""Attribute names of spans: OpenTelemetry's semantic conventions and Twolane's own.

The conventions for generative models are in development, in a repository of their own since 2026 (open-
telemetry/semantic-conventions-genai, release 0.1.0); the Python package contains older ones marked as deprecated, so
the names are written out here, and those of metrics in `metric_names`.
"""

from collections.abc import Mapping
from typing import Final

from gateway.enums import Kind
from gateway.types import Target

OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_STREAM: Final = "gen_ai.request.stream"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"  # seconds
ERROR_TYPE: Final = "error.type"
HTTP_METHOD: Final = "http.request.method"
HTTP_STATUS: Final = "http.response.status_code"
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
EMBEDDINGS: Final = "embeddings"
TWOLANE: Final = "twolane"
OTHER: Final = "other"
_OPERATIONS: Final[Mapping[str, str]] = {
    "/v1/completions": "text_completion",
    "/v1/fim/completions": "text_completion",
    "/v1/embeddings": EMBEDDINGS,
    "/v1/decisions": "decisions",  # no convention yet
}


# Values of `gen_ai.provider.name` by litellm's prefix of a model, where the two differ.
_PROVIDERS: Final[Mapping[str, str]] = {
    "azure": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "bedrock": "aws.bedrock",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
    "moonshot": "moonshot_ai",
    "vertex_ai": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
    "xai": "x_ai",
}


def provider_of(target: Target) -> str:
    """The value of `gen_ai.provider.name` for a target: the provider that litellm calls, or the engine."""
    if target.kind is Kind.WORKER:
        return TWOLANE
    if target.kind is Kind.LITELLM:
        prefix = target.model.partition("/")[0]
        return _PROVIDERS.get(prefix, prefix)
    return target.engine or OTHER


def operation_of(path: str) -> str:
    """The operation of a request to this path; edits are chats."""
    return _OPERATIONS.get(path, CHAT)
