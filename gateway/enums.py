"""The closed sets of words that the gateway decides by, logs and shows: values on the wire, so never renamed lightly.

They are spelled as in the contract; labels and headers come from here and from policies only, never from requests.
"""

from enum import StrEnum


class Task(StrEnum):
    """What a request wants done."""

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
    """Why a target did not give the answer: the closed set of fallback reasons."""

    INVALID_OUTPUT = "invalid_output"
    P95_BREACH = "p95_breach"
    DEADLINE = "deadline"
    HEDGE = "hedge"
    UPSTREAM_ERROR = "upstream_error"
    OVERLOADED = "overloaded"
    NOT_RESIDENT = "not_resident"
    CIRCUIT_OPEN = "circuit_open"
    UNSUPPORTED = "unsupported"
    LOW_CONFIDENCE = "low_confidence"
    REFUSED = "refused"


# These speak of the server, not of one reading of it: every other target behind the same base URL shares them.
SHARED_REASONS = frozenset(
    {Reason.UPSTREAM_ERROR, Reason.OVERLOADED, Reason.NOT_RESIDENT, Reason.P95_BREACH, Reason.CIRCUIT_OPEN}
)


class LaneState(StrEnum):
    """What a lane, that is a target in its role in one route, may carry."""

    SERVING = "serving"
    PROBING = "probing"
    EJECTED = "ejected"


class BreakerState(StrEnum):
    """In the electrical sense: closed lets requests through."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Location(StrEnum):
    """Where a target computes; a private request stays `in_cluster`."""

    IN_CLUSTER = "in_cluster"
    EXTERNAL = "external"


class Kind(StrEnum):
    """Which adapter speaks to a target. `scripted` is the shipped fake and is never read from a policy file."""

    WORKER = "worker"
    OPENAI = "openai"
    LITELLM = "litellm"
    SCRIPTED = "scripted"


class Residency(StrEnum):
    """Where a target's weights are. `unknown` before it was first asked, `unreachable` when nothing answers."""

    UNKNOWN = "unknown"
    UNREACHABLE = "unreachable"
    COLD = "cold"
    LOADING = "loading"
    READY = "ready"
    DEGRADED = "degraded"
    EVICTING = "evicting"
    DRAINING = "draining"


class Buffer(StrEnum):
    """What must be seen before the first byte may leave."""

    FULL = "full"
    FIRST_BYTES = "first_bytes"
    NONE = "none"


class Outcome(StrEnum):
    """How a request ended."""

    OK = "ok"
    ERROR = "error"
    CLIENT_GONE = "client_gone"


class AttemptOutcome(StrEnum):
    """How an attempt ended if not by a fallback `Reason`."""

    OK = "ok"
    CANCELLED = "cancelled"


class SloOutcome(StrEnum):
    """What became of a lane's promise in one attempt."""

    MET = "met"
    LATE = "late"  # answered later than promised, or given up when it was
    FAILED = "failed"


class SchemaCheck(StrEnum):
    """What the check of the served answer found; the word in `x-twolane-schema`."""

    VALID = "valid"
    REPAIRED = "repaired"


class Capability(StrEnum):
    """What a target can do and a request can need."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    SUFFIX = "suffix"
    PREDICTION = "prediction"
    JSON_SCHEMA = "json_schema"
    JSON_OBJECT = "json_object"
    REGEX = "regex"
    CHOICE = "choice"
    TEMPLATE = "template"
    TOOLS = "tools"
    TOOL_CHOICE = "tool_choice"
    SEED = "seed"
    TEMPERATURE = "temperature"
    TOP_P = "top_p"
    LOGPROBS = "logprobs"
    LOGIT_BIAS = "logit_bias"
    STOP = "stop"
    N = "n"
    STREAM = "stream"
    IMAGES = "images"
    EMBEDDINGS = "embeddings"


class Grade(StrEnum):
    """How far a capability goes: `json_schema` and `tools` use the first three, `prediction` the first and last two."""

    NONE = "none"
    BEST_EFFORT = "best_effort"
    GUARANTEED = "guaranteed"
    WARM_START = "warm_start"
    ANCHORED = "anchored"


class Form(StrEnum):
    """The kinds of promise a request can ask an answer's text to keep."""

    JSON_SCHEMA = "json_schema"
    JSON_OBJECT = "json_object"
    REGEX = "regex"
    CHOICE = "choice"
    TEMPLATE = "template"


class Likeness(StrEnum):
    """How the answer of a shadow compares with the one that was served."""

    SAME = "same"
    DIFFERENT = "different"
    FAILED = "failed"
