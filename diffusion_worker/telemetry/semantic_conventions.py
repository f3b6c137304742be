"""Attribute names of the worker's spans: OpenTelemetry's semantic conventions and Twolane's own. Pure constants.

The conventions for generative models are in development, in a repository of their own since 2026
(open-telemetry/semantic-conventions-genai, read at 004902b); when they change, this file changes.
"""

from typing import Final

OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_STREAM: Final = "gen_ai.request.stream"
MAX_TOKENS: Final = "gen_ai.request.max_tokens"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"

REQUEST_ID: Final = "twolane.request.id"
CACHED_TOKENS: Final = "twolane.worker.cached_tokens"
STEPS: Final = "twolane.worker.denoising_steps"
PASSES: Final = "twolane.worker.forward_passes"
CONFIDENCE: Final = "twolane.worker.confidence"
CONVERGED: Final = "twolane.worker.converged"
QUEUE: Final = "twolane.worker.queue"  # seconds from submission until a slot was allocated
PREFILL: Final = "twolane.worker.prefill"  # seconds from the slot allocation to the first step
EVENTS_DROPPED: Final = "twolane.worker.events_dropped"

CHAT: Final = "chat"  # values
TEXT: Final = "text_completion"
DECISIONS: Final = "decisions"  # no convention yet
US: Final = "twolane"
