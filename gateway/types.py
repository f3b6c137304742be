"""Frozen records shared by all gateway modules: targets, queries, plans, health, responses.

Terms: a *target* is a named entry of the policy, an *endpoint* is one server behind it, a *lane* is a target's role in
one route. Times named `_s` are monotonic seconds, `_ms` are milliseconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from gateway.beyond_chat import A_CHAT, BeyondChat
from gateway.enums import (
    BreakerState,
    Capability,
    FormatKind,
    Grade,
    Kind,
    LaneState,
    Reason,
    Residency,
    TargetApi,
    Task,
)
from gateway.policy_types import (
    DEFAULT_IDLE_S,
    DEFAULT_QUEUE,
    DEFAULT_TOTAL_MS,
    Checks,
    Hedge,
    LocationLimit,
    Price,
    Queue,
    Retry,
    Slo,
)
from twolane.process.records import record
from twolane.process.trace_context import Trace

CHARS_PER_TOKEN: Final = 4
MAX_SILENCE_MS: Final = 120_000.0  # of a target on a route without any limit of time
_CHAT_PATH: Final = "/chat/completions"
_TOKENIZED: Final = f"/v1{_CHAT_PATH}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """The features that a target supports. A graded one is in `supported` if and only if its grade is not `none`.

    `fields` are further request fields that it takes. At an open target, the server decides about all others except
    those that are `missing`, and about the capabilities that it `passes`: they are sent if they have an effect.
    """

    supported: frozenset[Capability]
    json_schema: Grade = Grade.NONE
    tools: Grade = Grade.NONE
    prediction: Grade = Grade.NONE
    fields: frozenset[str] = frozenset()
    is_open: bool = False
    missing: frozenset[str] = frozenset()
    passes: frozenset[Capability] = frozenset()
    context_length: int | None = None  # tokens, prompt and completion together; None: unknown
    max_inputs: int | None = None  # of one request for embeddings; None: unknown
    dimensions: int | None = None  # the most that an embedding has; None: unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A named entry of the policy. `capabilities` is None if they are discovered (see `Status`).

    A target with several `endpoints` is never called itself. Each endpoint is a target with its own url, breaker and
    concurrency limit, and its `pool` is the name of the target that it belongs to.
    """

    name: str
    kind: Kind
    url: str  # base URL without /v1; targets with the same base URL share failures
    model: str  # the model's name at the target
    location: str | None = None  # a label of the policy's own
    uses_proxy: bool = False  # that of the environment, if it names one
    path: str = "/v1/chat/completions"  # of chat completions below `url`, with the query if there is one
    max_in_flight: int | None = None
    queue: Queue = DEFAULT_QUEUE  # of requests that wait while `max_in_flight` is reached
    idle_s: float = DEFAULT_IDLE_S  # between two chunks of a stream
    capabilities: Capabilities | None = None
    engine: str | None = None  # the engine whose capability profile it has
    key_env: str | None = None  # environment variable that holds the credential, never the credential
    key_file: str | None = None  # file that holds the credential
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)  # sent with every call; never logged
    retry_after_max_s: float = 300.0  # a longer `Retry-After` of the target is shortened to this
    retry: Retry | None = None
    price: Price | None = None
    diffusion: tuple[tuple[str, float | tuple[tuple[str, float], ...]], ...] = ()  # defaults of a worker
    ignore: frozenset[str] = frozenset()  # parameters that are left out of requests to it
    min_confidence: float | None = None  # where no route states one for it, and of requests that name it
    serves_surest: bool = False  # to requests that name it, an answer below that
    pool: str | None = None
    endpoints: "tuple[Target, ...]" = ()
    policy_name: str = field(init=False, compare=False, repr=False)  # also of an endpoint; in headers, logs and lanes
    address: str | None = field(init=False, compare=False, repr=False)  # host and port of an endpoint, no credential

    def __post_init__(self) -> None:
        object.__setattr__(self, "policy_name", self.pool or self.name)
        address = urlsplit(self.url).netloc.rpartition("@")[2] if self.pool else None
        object.__setattr__(self, "address", address)

    @property
    def chat_url(self) -> str:
        """The URL that is called."""
        return self.url + self.path

    def url_of(self, api: TargetApi) -> str:
        """The URL of one of its APIs, beside that of chat completions; `/tokenize` has no version."""
        if api is TargetApi.CHAT:
            return self.chat_url
        is_versioned = api is TargetApi.TOKENIZE and _TOKENIZED in self.path
        return self.url + self.path.replace(_TOKENIZED if is_versioned else _CHAT_PATH, f"/{api}", 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFormat:
    """The output format that a request requires. Only the field for its `form` is set.

    `schema` is the JSON Schema as sent (never changed), `digest` is "sha256:..." of its canonical form. `param` is the
    request's field that asks for it.
    """

    form: FormatKind
    schema: Any = None
    pattern: str | None = None  # of a regex; of a template, a regex that is equivalent to it
    choices: tuple[str, ...] = ()
    digest: str | None = None
    grammar: str | None = None  # only targets can check it
    param: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A tool that the response may call. `parameters` is a JSON Schema for the arguments of a function; None: any
    object. The input of a custom tool is text, which must match `pattern` if there is one."""

    name: str
    parameters: Any = None
    digest: str | None = None
    is_custom: bool = False
    pattern: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolChoice:
    """Which tools a response may and must call. `allowed` None: every offered tool; `parallel`: several calls."""

    is_required: bool = False
    allowed: frozenset[str] | None = None
    parallel: bool = True


@record
class RequestParameters:
    """The parameters of a request that may have an effect, by name; see `gateway.parameters`."""

    names: frozenset[str] = frozenset()  # all of them
    fields: frozenset[str] = frozenset()  # known ones with an effect that have no capability and are no hints
    unknown: frozenset[str] = frozenset()
    media: frozenset[str] = frozenset()  # types of parts of messages that are neither text nor `image_url`
    hosted: Mapping[str, str] = field(default_factory=dict)  # what chats cannot ask for, and the field of each


@record
class Query:
    """One parsed request. Only upstream clients read the client's JSON, from `body`.

    Requests of all APIs have the form of a chat, and what they have beyond it. `needs` are the capabilities that a
    target must support; options that may be ignored safely are left out. Texts are for classification, never logged.
    """

    request_id: str
    model: str
    body: bytes
    received_s: float
    system_text: str = ""  # beginning and end, if it is long
    last_user_text: str = ""  # as above
    earlier_text: str = ""  # the user's message before the last, and
    answer_text: str = ""  # the assistant's last answer; as above, but shorter
    message_count: int = 1
    stream: bool = False
    include_usage: bool = False
    private: bool = False
    locations: tuple[LocationLimit, ...] = ()  # all of which hold
    task_hint: Task | None = None
    task_hint_from: str = ""  # "header", "metadata" or "api"
    deadline_ms: float | None = None
    principal: str | None = None  # name of the key
    allowed_models: frozenset[str] | None = None  # by the key; None: all
    allowed_routes: frozenset[str] | None = None
    trace: Trace | None = None
    output_format: OutputFormat | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    has_tools: bool = False
    has_prediction: bool = False
    has_suffix: bool = False
    has_images: bool = False
    needs: frozenset[Capability] = frozenset({Capability.CHAT})
    parameters: RequestParameters = field(default_factory=RequestParameters)
    n: int = 1  # choices
    prompt_chars: int = 0  # of all messages together
    prefix_text: str = ""  # the beginning of the prompt
    headers: Mapping[bytes, bytes] = field(default_factory=dict, repr=False)  # for route conditions; never logged
    beyond_chat: BeyondChat = A_CHAT
    spans: Mapping[str, tuple[int, int]] | None = None  # where the fields of a chat's `body` are, if that is known


@record
class Classification:
    """The task, the confidence (0..1), and the evidence: `header`, `prediction`, `words: translate, into`.

    `probabilities` are those of all tasks, in the order of `Task`, if words decided; otherwise empty.
    """

    task: Task
    confidence: float
    evidence: str
    probabilities: tuple[float, ...] = ()

    def confidence_of(self, tasks: frozenset[Task]) -> float:
        """The probability that the task is one of these."""
        if not self.probabilities:
            return self.confidence if self.task in tasks else 0.0
        return sum(each for task, each in zip(Task, self.probabilities, strict=True) if task in tasks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A target in its role in one route (a lane): the unit of SLO accounting and the destination of an attempt."""

    route: str
    target: Target
    slo: Slo | None = None
    min_confidence: float | None = None
    hedge: Hedge | None = None
    per_endpoint: "tuple[Candidate, ...]" = ()  # one candidate for each endpoint of the target, if it has several

    @property
    def lane(self) -> tuple[str, str]:
        """The key of the lane: route and target."""
        return self.route, self.target.policy_name

    @property
    def endpoints(self) -> "tuple[Candidate, ...]":
        """The candidates that can be called: one for each endpoint, or the candidate itself."""
        return self.per_endpoint or (self,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shadow:
    """The candidate that receives a copy of a `share` of a route's requests; its responses are discarded."""

    candidate: Candidate
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The ordered candidates of one request, and the checks on its response. `policy` is the version of the policy.

    `private` is true if the request or the route requires it; candidates are already filtered accordingly, as for
    `locations`, to which the request, its key and the route limit it (None: no limit)."""

    policy: str
    route: str
    candidates: tuple[Candidate, ...]
    deadline_ms: float | None = None  # of the first byte of a stream that is passed on, or of the whole answer
    total_ms: float = DEFAULT_TOTAL_MS  # of a stream as a whole, and of an answer without a deadline
    attempt_ms: float | None = None  # the longest an attempt may take if another candidate is left
    patience_ms: float | None = None  # how long the policy lets an attempt take, if the request's deadline is shorter
    private: bool = False
    locations: frozenset[str] | None = None
    shadow: Shadow | None = None
    checks: Checks | None = None  # of the response against the request's output format and tools
    serves_surest: bool = False  # where no answer reaches the minimum confidence, the surest one is served

    @property
    def silence_limit_ms(self) -> float:
        """A target that sends nothing for so long hangs: the policy's own limit, whatever the request allows."""
        return self.patience_ms or self.attempt_ms or self.deadline_ms or MAX_SILENCE_MS


@record
class Status:
    """The last known status of a target, polled or learned from calls. None means unknown, never zero."""

    residency: Residency = Residency.UNKNOWN
    predicted_wait_ms: float | None = None
    capabilities: Capabilities | None = None


@record
class Health:
    """Everything known about a candidate at one moment; reading it has no side effects."""

    status: Status = field(default_factory=Status)
    lane: LaneState = LaneState.SERVING
    within_budget: bool = True
    breaker: BreakerState = BreakerState.CLOSED
    in_flight: int = 0
    waiting: int = 0  # for a slot of the target
    retry_after_s: float = 0.0  # until the target may be called again, as it asked
    is_quota: bool = False  # its provider's rate limit is the cause of `retry_after_s`


@record
class Verdict:
    """Whether a candidate may be called now. If not, `reason` is the cause and `detail` the figures behind it.

    `param` is the request's field that the target does not support. `retry_after_s` is the time until the target may be
    called again, if known, and `is_quota` says that its provider's rate limit is the cause. `is_shared`: another target
    at the same server failed. `is_slow`: another candidate should be faster. `is_full`: all slots are in use.
    """

    reason: Reason | None = None
    detail: str = ""
    probe: bool = False
    is_slow: bool = False
    is_full: bool = False
    param: str | None = None
    retry_after_s: float | None = None
    is_quota: bool = False
    is_shared: bool = False

    @property
    def admitted(self) -> bool:
        """True if and only if there is no `reason`."""
        return self.reason is None


@record
class Usage:
    """Usage as reported. Only our worker reports `converged` and `load`; of others, gates compute the `confidence`."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    confidence: float | None = None
    converged: bool | None = None
    load: float | None = None  # 0..1, if it moved the thresholds of denoising
    cost: float | None = None  # in US dollars, if the price is known


@record
class ToolCall:
    """A tool call of the response, or a fragment of one. Fragments with the same `index` are concatenated.

    `arguments` of a custom tool is its input.
    """

    index: int
    name: str = ""
    arguments: str = ""
    id: str = ""


@record
class Piece:
    """What one delta adds to choice `index`; in a non-streamed response, the whole choice."""

    index: int
    text: str = ""
    refusal: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str | None = None
    other_bytes: int = 0  # of content that the gateway does not interpret: reasoning, legacy function calls, audio
    is_answer: bool = False  # it carries content, even if that is an empty text; a role alone is no answer


@record
class Delta:
    """One JSON object from a target: a stream event or a complete response. `data` can be forwarded unchanged; without
    it, see `ports.UpstreamResponse`. `original` is what the target sent, if `data` is a translation of that."""

    data: bytes
    pieces: tuple[Piece, ...] = ()
    usage: Usage | None = None
    original: bytes = b""


@record
class Call:
    """Input of an upstream client for one attempt. `left_ms` is the time within which the answer must be complete."""

    target: Target
    query: Query
    left_ms: float | None = None
    validation_error: str | None = None  # why an earlier response was rejected; it is sent to the target
    ignored: tuple[str, ...] = ()  # parameters to leave out
    min_confidence: float | None = None  # a worker ends an answer that cannot reach it
    wants_logprobs: bool = False  # request the log-probabilities of the tokens, whether the client did or not
    choice: int | None = None  # request only this one of the query's `n` choices; None: all of them
    prompt: int | None = None  # send only this one of the query's prompts; None: all of them
    questions: tuple[int, ...] | None = None  # of a decision, ask only these; None: all of them
    span_id: int = 0  # of this attempt in the query's trace
