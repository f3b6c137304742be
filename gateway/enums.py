"""Enumerations used in decisions, logs, metrics and headers. Their values are part of the wire format.

Metric labels and headers take values from here and from policies only, never from requests.
"""

from enum import StrEnum


class Task(StrEnum):
    """The task that a request was classified as."""

    EDIT = "edit"
    AUTOCOMPLETE = "autocomplete"
    STRUCTURED = "structured"
    EXTRACTION = "extraction"
    REASONING = "reasoning"
    CHAT = "chat"
    AGENT = "agent"
    CODE = "code"
    SUMMARIZE = "summarize"
    TRANSLATE = "translate"


class Reason(StrEnum):
    """Why a target did not serve the request (the fallback reason)."""

    INVALID_OUTPUT = "invalid_output"
    P95_BREACH = "p95_breach"
    DEADLINE = "deadline"
    HEDGE = "hedge"
    UPSTREAM_ERROR = "upstream_error"
    UPSTREAM_AUTH = "upstream_auth"
    OVERLOADED = "overloaded"
    NOT_RESIDENT = "not_resident"
    CIRCUIT_OPEN = "circuit_open"
    UNSUPPORTED = "unsupported"
    CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
    LOW_CONFIDENCE = "low_confidence"
    REFUSED = "refused"


# Reasons that concern the server as a whole: they apply to every target with the same base URL.
SHARED_REASONS = frozenset(
    {Reason.UPSTREAM_ERROR, Reason.OVERLOADED, Reason.NOT_RESIDENT, Reason.P95_BREACH, Reason.CIRCUIT_OPEN}
)


class LaneState(StrEnum):
    """State of a lane (a target in its role in one route), as the SLO guard sets it."""

    SERVING = "serving"
    PROBING = "probing"
    EJECTED = "ejected"


class BreakerState(StrEnum):
    """State of a circuit breaker: `closed` passes requests, `open` rejects them."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Kind(StrEnum):
    """The upstream client of a target. `scripted` is a fake for tests and is not allowed in policy files."""

    WORKER = "worker"
    OPENAI = "openai"
    LITELLM = "litellm"
    SCRIPTED = "scripted"


class Residency(StrEnum):
    """Lifecycle state of a target's weights: `unknown` before the first poll, `unreachable` if the poll fails."""

    UNKNOWN = "unknown"
    UNREACHABLE = "unreachable"
    COLD = "cold"
    LOADING = "loading"
    READY = "ready"
    DEGRADED = "degraded"
    EVICTING = "evicting"
    FAILED = "failed"
    DRAINING = "draining"


class Buffer(StrEnum):
    """How much of a response is buffered before its first byte is sent to the client."""

    FULL = "full"
    FIRST_BYTES = "first_bytes"
    NONE = "none"


class OnLowConfidence(StrEnum):
    """What a route serves where no answer reaches its minimum confidence."""

    ERROR = "error"
    SERVE_SUREST = "serve_surest"  # the answer with the highest confidence, marked by a header


class RunawayScope(StrEnum):
    """Which texts of a response are cut when they run away (see `validation.runaway`)."""

    FORM = "form"  # those that must have a form: structured output, arguments of tool calls
    ALL = "all"  # free text too
    NONE = "none"


class Outcome(StrEnum):
    """How a request ended."""

    OK = "ok"
    ERROR = "error"
    CLIENT_GONE = "client_gone"


class ErrorSource(StrEnum):
    """Who caused the error of a request: only target and gateway are the operator's concern."""

    CLIENT = "client"  # invalid, not allowed, over its limits, or with a deadline of its own that is too short
    TARGET = "target"
    GATEWAY = "gateway"


class AttemptOutcome(StrEnum):
    """How an attempt ended, unless it ended with a fallback `Reason`."""

    OK = "ok"
    INCOMPLETE = "incomplete"  # answered, but without a finish reason: the end may be missing
    CANCELLED = "cancelled"


class SloOutcome(StrEnum):
    """Whether one attempt met its lane's latency objective."""

    MET = "met"
    LATE = "late"  # answered after the objective, or abandoned after it
    FAILED = "failed"


class SchemaCheck(StrEnum):
    """Result of validating the served response; the value of the header `x-twolane-schema`."""

    VALID = "valid"
    REPAIRED = "repaired"
    TRUNCATED = "truncated"  # valid as far as it goes: a token limit or a stop string cut it


class Capability(StrEnum):
    """A feature that a target supports and a request may require."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    SUFFIX = "suffix"
    PREDICTION = "prediction"
    JSON_SCHEMA = "json_schema"
    JSON_OBJECT = "json_object"
    REGEX = "regex"
    CHOICE = "choice"
    TEMPLATE = "template"
    GRAMMAR = "grammar"
    TOOLS = "tools"
    TOOL_CHOICE = "tool_choice"
    SEED = "seed"
    TEMPERATURE = "temperature"
    TOP_P = "top_p"
    TOP_K = "top_k"
    MIN_P = "min_p"
    PRESENCE_PENALTY = "presence_penalty"
    FREQUENCY_PENALTY = "frequency_penalty"
    REPETITION_PENALTY = "repetition_penalty"
    REASONING_EFFORT = "reasoning_effort"
    LOGPROBS = "logprobs"
    PROMPT_LOGPROBS = "prompt_logprobs"
    LOGIT_BIAS = "logit_bias"
    STOP = "stop"
    N = "n"
    STREAM = "stream"
    IMAGES = "images"
    EMBEDDINGS = "embeddings"
    DECISIONS = "decisions"
    RESPONSES = "responses"


class TargetApi(StrEnum):
    """An API of targets that the gateway calls."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"
    DECISIONS = "decisions"
    RESPONSES = "responses"
    TOKENIZE = "tokenize"  # counts the tokens of a chat; see `attempts.token_count`


class Grade(StrEnum):
    """Support level: `json_schema` and `tools` use the first three values, `prediction` the first and the last two."""

    NONE = "none"
    BEST_EFFORT = "best_effort"
    GUARANTEED = "guaranteed"
    WARM_START = "warm_start"
    ANCHORED = "anchored"


class Decoding(StrEnum):
    """How a worker chooses tokens; its model ids end in `:MODE`, except that of diffusion."""

    DIFFUSION = "diffusion"
    VERIFIED = "verified"
    AUTOREGRESSIVE = "autoregressive"

    @classmethod
    def of_model(cls, model: str) -> "Decoding":
        """The mode of a worker's model id."""
        suffix = model.rpartition(":")[2]
        return cls(suffix) if suffix in (cls.VERIFIED, cls.AUTOREGRESSIVE) else cls.DIFFUSION


class FormatKind(StrEnum):
    """The kinds of output format that a request can ask for."""

    JSON_SCHEMA = "json_schema"
    JSON_OBJECT = "json_object"
    REGEX = "regex"
    CHOICE = "choice"
    TEMPLATE = "template"
    GRAMMAR = "grammar"


class ShadowResult(StrEnum):
    """How a shadow response compares with the served response."""

    SAME = "same"
    DIFFERENT = "different"
    FAILED = "failed"
