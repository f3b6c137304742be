"""Response headers from a Decision. All header names of responses are defined here."""

import secrets
from collections import deque
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from math import ceil
from typing import Final

from gateway.attempts.token_count import TokenCount
from gateway.beyond_chat import MESSAGES_PATH
from gateway.decision import Decision
from gateway.policy_types import Quota

RequestHeaders = dict[bytes, bytes]
ResponseHeaders = list[tuple[bytes, bytes]]

REQUEST_ID = b"x-request-id"
MESSAGES_REQUEST_ID = b"request-id"  # the name that Anthropic's clients read
TASK = b"x-twolane-task"
CONFIDENCE = b"x-twolane-confidence"
ROUTE = b"x-twolane-route"
TARGET = b"x-twolane-target"
ATTEMPTS = b"x-twolane-attempts"
LOW_CONFIDENCE = b"x-twolane-low-confidence"
FALLBACK = b"x-twolane-fallback"
IGNORED = b"x-twolane-ignored"
ANSWERED_BY = b"x-twolane-answered-by"
POLICY = b"x-twolane-policy"
SCHEMA = b"x-twolane-schema"
TOKEN_COUNT = b"x-twolane-token-count"
GATEWAY = b"x-twolane-gateway"
SERVER_TIMING = b"server-timing"
RATE_LIMIT = b"x-ratelimit-"
RETRY_AFTER = b"retry-after"
SHOULD_RETRY = b"x-should-retry"
TRACE = b"traceresponse"  # W3C Trace Context level 2: the trace and the gateway's span

# Description of each header, for docs/reference/headers.md.
MEANINGS = {
    REQUEST_ID: "ID of the request, new for each; also in logs and traces, and sent to the targets.",
    MESSAGES_REQUEST_ID: "The same ID, on `/v1/messages`: Anthropic's clients read it under this name.",
    TASK: "Task of the request, as declared or classified.",
    CONFIDENCE: "Confidence of the classification, 0 to 1.",
    ROUTE: "Route of the policy that took the request; `direct` if the request named a target.",
    TARGET: "Target that produced the response; absent if none did.",
    ATTEMPTS: "Every target tried or skipped, in order, with `ok`, `incomplete` or the reason:"
    " `fast=low_confidence,quality=ok`.",
    FALLBACK: "Reason of the last change of target; absent if the first target answered.",
    LOW_CONFIDENCE: "Confidence of an answer that is below the minimum and served as the surest one; absent otherwise.",
    IGNORED: "Request parameters that the target's `ignore` left out, such as `temperature,top_k`, or that the gateway"
    " cannot honour (`store` of a response without a store); absent if none.",
    ANSWERED_BY: "Of a decision: the questions that each target answered, by index from 0: `fast=0-3,5; quality=4`.",
    POLICY: "Hash of the policy that decided.",
    SCHEMA: "Result of validating the response against what the request asked for: `valid`, `repaired`, or `truncated`"
    " (cut off by a token limit or a stop string, and valid as far as it goes).",
    TOKEN_COUNT: "On `/v1/messages/count_tokens`: `exact` if the target's tokenizer counted, `estimate` if it has none"
    " that the gateway can call.",
    GATEWAY: "Replica that answered, on every response of the public port: the name of the pod or host, or"
    " `--replica-name`; absent without a name.",
    SERVER_TIMING: "Milliseconds spent in each phase (classify, queue, upstream, validate) and in total.",
    RATE_LIMIT + b"limit-requests": "Requests per minute of the API key, if it has a limit; `-tokens` likewise.",
    RATE_LIMIT + b"remaining-requests": "Requests that the API key may still send now; `-tokens` likewise.",
    RATE_LIMIT + b"reset-requests": "Time until the whole limit is available again; `-tokens` likewise.",
    TRACE: "W3C trace ID and span ID, if the request is sampled.",
    RETRY_AFTER: "On errors: seconds after which the request may succeed, if that is known.",
    SHOULD_RETRY: "On errors: `false` if the same request would fail again, else `true`. OpenAI's clients follow it.",
}
# What is known before a target has answered: the headers of a stream whose head is sent by a heartbeat.
KNOWN_EARLY = frozenset(
    {
        *(REQUEST_ID, MESSAGES_REQUEST_ID, TASK, CONFIDENCE, ROUTE, POLICY, TRACE),
        *(RATE_LIMIT + part + of for part in (b"limit-", b"remaining-", b"reset-") for of in (b"requests", b"tokens")),
    }
)


_ID_DIGITS: Final = 24
_IDS_AT_ONCE: Final = 256
_request_ids: Final = deque[str]()  # its methods are atomic: bodies are parsed in threads


def new_request_id() -> str:
    """A random ID for a request. Many are made at a time: each system call lets other threads take the processor."""
    try:
        return _request_ids.popleft()
    except IndexError:
        digits = secrets.token_hex(_ID_DIGITS // 2 * _IDS_AT_ONCE)
        made = [f"req_{digits[at : at + _ID_DIGITS]}" for at in range(0, len(digits), _ID_DIGITS)]
        _request_ids.extend(made[1:])
        return made[0]


def request_id_headers(request_id: str, path: str) -> ResponseHeaders:
    """The ID of a request, under the names that the clients of the API at this path read."""
    value = request_id.encode()
    if path.startswith(MESSAGES_PATH):
        return [(REQUEST_ID, value), (MESSAGES_REQUEST_ID, value)]
    return [(REQUEST_ID, value)]


def describe(decision: Decision) -> ResponseHeaders:
    """All headers known so far; empty ones are omitted."""
    classification, attempts, timings_ms = decision.classification, decision.attempts, decision.timings_ms
    is_rare = len(attempts) != 1
    if is_rare:
        tried = ",".join([f"{attempt.target}={attempt.outcome}" for attempt in attempts])
    else:
        only = attempts[0]
        tried, is_rare = f"{only.target}={only.outcome}", bool(only.ignored)
    headers = [
        *request_id_headers(decision.query_id, decision.api_path),
        (CONFIDENCE, b"%.2f" % classification.confidence),
        *_repeated(classification.task, decision.route, decision.target, tried, decision.policy),
        (SERVER_TIMING, _timing_format(tuple(timings_ms)) % (*timings_ms.values(), decision.total_ms)),
    ]
    if is_rare or decision.low_confidence is not None or decision.answered_by:
        headers += [(name, _value(value)) for name, value in _rare(decision) if value]
    if decision.schema_check:
        headers.append((SCHEMA, _value(decision.schema_check)))
    trace = decision.trace
    if trace is not None and trace.is_recorded:
        headers.append((TRACE, trace.traceparent.encode()))
    return headers


@lru_cache(maxsize=1024)
def _repeated(task: str, route: str, target: str | None, tried: str, policy: str) -> ResponseHeaders:
    """Those that many responses have alike."""
    found = ((TASK, task), (ROUTE, route), (TARGET, target), (ATTEMPTS, tried), (POLICY, policy))
    return [(name, _value(value)) for name, value in found if value]


def _rare(decision: Decision) -> Iterator[tuple[bytes, str | None]]:
    """Headers that most answers do not have."""
    yield FALLBACK, decision.fallback
    if decision.low_confidence is not None:
        yield LOW_CONFIDENCE, f"{decision.low_confidence:.3f}"
    yield IGNORED, ",".join(decision.ignored)
    if decision.answered_by:
        yield ANSWERED_BY, _answered_by(decision)


@lru_cache(maxsize=1024)
def _value(text: str) -> bytes:
    return text.encode("latin-1", "replace")


def describe_quota(quota: Quota | None) -> ResponseHeaders:
    """OpenAI's rate limit headers, for the limits that the request's API key has."""
    if quota is None:
        return []
    headers: ResponseHeaders = []
    for name, status in ((b"requests", quota.requests), (b"tokens", quota.tokens)):
        if status is not None:
            headers += [
                (RATE_LIMIT + b"limit-" + name, b"%d" % status.limit),
                (RATE_LIMIT + b"remaining-" + name, b"%d" % status.remaining),
                (RATE_LIMIT + b"reset-" + name, b"%dms" % ceil(status.reset_s * 1000)),
            ]
    return headers


def describe_count(count: TokenCount) -> ResponseHeaders:
    """The target whose tokens were counted, and whether they were counted or estimated."""
    return [(TARGET, count.target.policy_name.encode()), (TOKEN_COUNT, b"exact" if count.is_exact else b"estimate")]


def _answered_by(decision: Decision) -> str:
    return "; ".join(f"{target}={','.join(_ranges(indices))}" for target, indices in decision.answered_by)


def _ranges(indices: Sequence[int]) -> Iterator[str]:
    """Ascending indices as ranges: 0-3, 5."""
    starts = [at for at, index in enumerate(indices) if at == 0 or index != indices[at - 1] + 1]
    for first, behind in pairwise([*starts, len(indices)]):
        low, high = indices[first], indices[behind - 1]
        yield str(low) if low == high else f"{low}-{high}"


@lru_cache
def _timing_format(phases: tuple[str, ...]) -> bytes:
    return b", ".join([b"%b;dur=%%.1f" % phase.encode() for phase in (*phases, "total")])
