"""The names of OpenTelemetry's conventions that the worker's spans use, and our own beside them. Pure constants.

Those for generative models are in development and live in a repository of their own since 2026
(open-telemetry/semantic-conventions-genai, read at 004902b). A change of the conventions is a change of this file.
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
QUEUE: Final = "twolane.worker.queue"  # seconds until it had a slot
PREFILL: Final = "twolane.worker.prefill"  # seconds from then to the first step
EVENTS_DROPPED: Final = "twolane.worker.events_dropped"

CHAT: Final = "chat"  # values
TEXT: Final = "text_completion"
US: Final = "twolane"
