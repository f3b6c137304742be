"""The records that travel through the gateway: made once at a border, frozen, and carrying their reason.

Knows no policy file, no HTTP, no clock. Times named `_s` are monotonic seconds, `_ms` are milliseconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from gateway.enums import (
    BreakerState,
    Capability,
    Form,
    Grade,
    Kind,
    LaneState,
    Location,
    Reason,
    Residency,
    Task,
)
from gateway.policy_types import Checks, Hedge, Retry, Slo
from twolane.process.trace_context import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """The words a target can honour. A graded word is in `words` exactly if its grade is not `none`."""

    words: frozenset[Capability]
    json_schema: Grade = Grade.NONE
    tools: Grade = Grade.NONE
    prediction: Grade = Grade.NONE

    def lacks(self, needs: frozenset[Capability]) -> frozenset[Capability]:
        """The needed words that are missing."""
        return needs - self.words


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A named place that can answer. `capabilities` None means: discovered, see `Status`.

    One with several `servers` is never called itself; each of those is a target with a url, a breaker and room of its
    own, and `pool` it.
    """

    name: str
    kind: Kind
    url: str  # base URL without /v1; targets with the same one live and die together
    model: str  # what the target itself calls the model
    location: Location
    max_in_flight: int | None = None
    capabilities: Capabilities | None = None
    key_env: str | None = None  # environment variable that holds the credential, never the credential
    retry: Retry | None = None
    diffusion: tuple[tuple[str, float], ...] = ()  # what a worker is asked for where a request says nothing
    pool: str | None = None
    servers: "tuple[Target, ...]" = ()

    @property
    def title(self) -> str:
        """The name that a policy gave it: what headers, logs and lanes say."""
        return self.pool or self.name

    @property
    def server(self) -> str | None:
        """Host and port, where the title alone does not tell which of several servers this is. Never a credential."""
        return urlsplit(self.url).netloc.rpartition("@")[2] if self.pool else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What the text of the answer must look like. Only the field of its form is set.

    `schema` is the JSON Schema as sent (never changed), `digest` is "sha256:..." of its canonical form.
    """

    form: Form
    schema: Any = None
    pattern: str | None = None  # regex or template
    choices: tuple[str, ...] = ()
    digest: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function the answer may call; its arguments must fit `parameters` (a JSON Schema, or None: anything)."""

    name: str
    parameters: Any = None
    digest: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One request as parsed at the border; below it nobody sees the client's JSON except adapters, in `body`.

    `needs` are the capabilities without which the request cannot be honoured (defaults and harmless wishes left out).
    Texts serve classification only and are never logged.
    """

    request_id: str
    model: str
    body: bytes
    received_s: float
    system_text: str = ""
    last_user_text: str = ""
    message_count: int = 1
    stream: bool = False
    include_usage: bool = False
    private: bool = False
    task_hint: Task | None = None
    task_hint_from: str = ""  # "header" or "metadata"
    deadline_ms: float | None = None
    principal: str | None = None  # name of the key
    trace: Trace | None = None
    expectation: Expectation | None = None
    tools: tuple[Tool, ...] = ()
    must_call: str | None = None  # the tool that `tool_choice` names; empty: any; None: no call is due
    has_tools: bool = False
    has_prediction: bool = False
    has_suffix: bool = False
    has_images: bool = False
    needs: frozenset[Capability] = frozenset({Capability.CHAT})
    prompt_chars: int = 0  # of all turns together
    prefix_text: str = ""  # how the prompt begins
    headers: Mapping[bytes, bytes] = field(default_factory=dict, repr=False)  # for conditions of routes; never logged


@dataclass(frozen=True, slots=True, kw_only=True)
class Classification:
    """The task, how sure we are (0..1), and the evidence: `header`, `prediction`, `words: translate, into`."""

    task: Task
    confidence: float
    evidence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A target in its role in one route: what the guard counts for (a lane), and what an attempt is made with."""

    route: str
    target: Target
    slo: Slo | None = None
    min_confidence: float | None = None
    hedge: Hedge | None = None
    servers: "tuple[Candidate, ...]" = ()  # the same candidate at each server of its target, if that has several

    @property
    def lane(self) -> tuple[str, str]:
        """What SLO windows are kept by."""
        return self.route, self.target.title

    @property
    def places(self) -> "tuple[Candidate, ...]":
        """Those that can be called."""
        return self.servers or (self,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shadow:
    """Whom a `share` of a route's requests is mirrored to, unheard."""

    candidate: Candidate
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Whom to ask, in order, and what the answer must pass. `policy` is the hash of the policy that made it.

    `private` is the request's wish or the route's `private: true`; candidates already respect it.
    """

    policy: str
    route: str
    candidates: tuple[Candidate, ...]
    deadline_ms: float | None = None
    attempt_ms: float | None = None  # the longest an attempt may take to be ready to answer, if somebody else is left
    private: bool = False
    shadow: Shadow | None = None
    checks: Checks | None = None  # of the answer against the request's expectation and tools


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What a target last said of itself, or what was learnt by calling it. None means unknown, never zero."""

    residency: Residency = Residency.UNKNOWN
    predicted_wait_ms: float | None = None
    capabilities: Capabilities | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """All that is known of a candidate at one moment; reading it changes nothing."""

    status: Status = field(default_factory=Status)
    lane: LaneState = LaneState.SERVING
    within_budget: bool = True
    breaker: BreakerState = BreakerState.CLOSED
    in_flight: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """May this candidate be called now? If not, `reason` says why and `detail` with what figures."""

    reason: Reason | None = None
    detail: str = ""
    probe: bool = False

    @property
    def admitted(self) -> bool:
        """True exactly if there is no reason against it."""
        return self.reason is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What the winning attempt cost by its own account. `confidence` (0..1) and `converged` come from our worker."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    confidence: float | None = None
    converged: bool | None = None
    cost: float | None = None  # in dollars, where its price is known


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call the answer makes, or a fragment of one: fragments with the same `index` concatenate."""

    index: int
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What one delta adds to choice `index`; in a whole answer, all of it."""

    index: int
    text: str = ""
    refusal: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """One JSON object from a target: an event of a stream, or the whole answer. `data` may leave as it is."""

    data: bytes
    pieces: tuple[Piece, ...] = ()
    usage: Usage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What an adapter needs to make one attempt. `left_ms` is what remains of the request's deadline.

    `rejected` is why an earlier answer was not good enough, for the target to read; None: it is not told.
    """

    target: Target
    query: Query
    left_ms: float | None = None
    rejected: str | None = None
    span_id: int = 0  # of this attempt in the query's trace
