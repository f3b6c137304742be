"""All errors of the gateway, as one tree. The web layer builds responses from their fields alone.

GatewayError
├── BadRequest                the request is invalid; `param` names the field                           400
│   ├── MalformedBody         the body is not JSON, or nested too deeply                                400
│   ├── InvalidField          a field has the wrong type, shape or range                                400
│   ├── BodyTooLarge          the body exceeds the size limit                                           413
│   ├── ModelNotFound         the model is neither an alias nor a target                                404
│   ├── NotFound              the path does not exist                                                   404
│   ├── MethodNotAllowed      the path does not support the method                                      405
│   ├── Unauthorized          the API key is missing or unknown                                         401
│   ├── PermissionDenied      the API key may not do this                                               403
│   ├── ForbiddenHost         a gateway without keys is not known under this host name                  403
│   ├── ForbiddenOrigin       web pages of this origin may not send requests                            403
│   └── UnsupportedMediaType  the body is not sent as plain JSON                                        415
├── TooManyBytes              the bodies and answers of other requests fill the memory set aside for them 503
├── StoreUnavailable          the store of responses does not respond                                   503
├── RateLimitExceeded         the API key exceeded its rate limit                                       429
│   └── BudgetExceeded        the API key has used its budget of the day                                429
├── Draining                  the gateway is shutting down                                              503
├── AttemptFailed             an attempt at one target failed; `reason` decides what happens next
│   ├── UpstreamError         the target failed, disconnected, or sent an invalid response              502
│   ├── Overloaded            the target is overloaded                                                  503
│   │   ├── TargetRateLimited the target's provider limits the rate of the gateway's requests           429
│   │   ├── InsufficientQuota the account at the target's provider has no quota left                    429
│   │   └── OutOfBytes        the answers in progress fill the memory set aside for them                503
│   ├── UpstreamAuth          the target rejected the gateway's credentials                             502
│   ├── NotResident           the target's weights are not loaded, or it is draining                    503
│   ├── DeadlineExceeded      the request's deadline passed                                             504
│   ├── InvalidOutput         the response does not match the requested format                          502
│   ├── LowConfidence         the answer's confidence is below the minimum, or it is blank              502
│   ├── Unsupported           the target does not support what the request requires                     400
│   ├── ContextLengthExceeded the request is longer than the target's context                           400
│   └── Refused               the target rejected the request; its message is passed on                 the target's
├── GatewayOverloaded         the gateway itself cannot keep up                                         503
├── NoRoute                   no candidate is available                                                 503
│   └── NoTargetInLocation    no candidate in the locations that the request is limited to is available 503
│       └── NoPrivateTarget   no candidate in the locations of private requests is available            503
└── CannotStart               a file is missing or invalid; one line names the cause (settings: twolane.process.errors)
    ├── BadWeights            the classifier weights are missing, damaged, or of another version
    ├── TraceError            a trace or decision log cannot be read; names file, line and column
    ├── NoLatency             the simulation has no latency model for a target
    └── PolicyError           the policy is missing or invalid; names file, line, column and key
        └── PolicyUnreadable  the policy file cannot be read, perhaps only now
"""

# ruff: noqa: N818 - the names say what happened; an "Error" suffix on each would only repeat the root of the tree.

from pathlib import Path
from typing import ClassVar

from gateway.enums import Reason


class GatewayError(Exception):  # the base class of all
    """An unexpected internal error."""

    status: int = 500  # HTTP status
    code: str = "internal_error"  # stable error code
    kind: ClassVar[str] = "server_error"  # OpenAI's `type`
    retryable: bool = True  # whether the same request may succeed later; sent as `x-should-retry`

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message, self.param, self.retry_after_s = message, param, retry_after_s


class BadRequest(GatewayError):
    """The request is invalid; `param` names the field."""

    status = 400
    code = kind = "invalid_request_error"
    retryable = False


class MalformedBody(BadRequest):
    """The body is not JSON, or nested too deeply."""

    code = "invalid_json"


class InvalidField(BadRequest):
    """A field has the wrong type, shape or range."""

    code = "invalid_value"


class BodyTooLarge(BadRequest):
    """The body exceeds the size limit."""

    status = 413
    code = "request_too_large"


class ModelNotFound(BadRequest):
    """The requested model is neither an alias nor a target."""

    status = 404
    code = "model_not_found"

    def __init__(self, model: str) -> None:
        super().__init__(f"Model {model!r} not found; GET /v1/models lists the available models.", param="model")


class NotFound(BadRequest):
    """The path does not exist."""

    status = 404
    code = "unknown_url"


class MethodNotAllowed(BadRequest):
    """The path does not support the HTTP method."""

    status = 405
    code = "method_not_allowed"
    allow: str = ""  # methods that the path supports

    def __init__(self, message: str, *, allow: str = "") -> None:
        super().__init__(message)
        self.allow = allow


class Unauthorized(BadRequest):
    """The API key is missing or unknown."""

    status = 401
    code = "invalid_api_key"


class PermissionDenied(BadRequest):
    """The API key may not do this; `param` names the field that it may not use."""

    status = 403
    code = "permission_denied"


class ForbiddenHost(BadRequest):
    """A gateway without API keys serves only requests whose `Host` names this machine."""

    status = 403
    code = "forbidden_host"


class ForbiddenOrigin(BadRequest):
    """Web pages of this origin may not send requests to the gateway."""

    status = 403
    code = "forbidden_origin"


class UnsupportedMediaType(BadRequest):
    """The body's content type or encoding is not accepted."""

    status = 415
    code = "unsupported_media_type"


class TooManyBytes(GatewayError):
    """The bodies and answers of other requests fill the memory set aside for them; `retry-after` says when to retry."""

    status = 503
    code = "overloaded"


class StoreUnavailable(GatewayError):
    """The store of responses, which the request refers to, does not respond."""

    status = 503
    code = "store_unavailable"


class RateLimitExceeded(GatewayError):
    """The API key exceeded its rate limit; `retry-after` is the time until its quota refills."""

    status = 429
    code = "rate_limit_exceeded"
    kind = "rate_limit_error"


class BudgetExceeded(RateLimitExceeded):
    """The API key has used its daily budget; `retry-after` is the time until the next day (UTC)."""

    code = kind = "insufficient_quota"
    retryable = False  # not within the time that clients wait between retries


class Draining(GatewayError):
    """The gateway is shutting down, and the request did not finish within the drain period."""

    status = 503
    code = "draining"


class GatewayOverloaded(GatewayError):
    """The gateway itself cannot keep up with its requests; this one was refused before it was read."""

    status = 503
    code = "overloaded"


class AttemptFailed(GatewayError):
    """An attempt failed; raised by upstream clients and checks, caught by the pipeline, which may fall back. `detail`
    goes to the next target: HTTP status, or schema keyword and pointer; `log_detail`, without names, goes to logs."""

    status = 502
    upstream_status: int | None = None  # HTTP status of the target
    reason: ClassVar[Reason] = Reason.UPSTREAM_ERROR
    may_have_begun: ClassVar[bool] = True  # whether the server may have begun to work on the request

    def __init__(
        self, message: str, *, detail: str = "", param: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, param=param, retry_after_s=retry_after_s)
        self.detail = self.log_detail = detail or message


class UpstreamError(AttemptFailed):
    """The target failed, disconnected, or sent an invalid response."""

    code = "upstream_error"


class NotConnected(UpstreamError):
    """No connection to the server could be opened, so that it has not received the request."""

    may_have_begun = False


class TargetMisconfigured(UpstreamError):
    """The target does not serve the URL or the model that the policy names, or redirects to another server."""

    retryable = False


class Overloaded(AttemptFailed):
    """The target is overloaded, or its concurrency limit is reached."""

    status = 503
    code = "overloaded"
    reason = Reason.OVERLOADED


class TargetRateLimited(Overloaded):
    """The target's provider limits the rate of the gateway's requests; `retry-after` is what it reported."""

    status = 429
    code = "rate_limit_exceeded"
    kind = "rate_limit_error"


class InsufficientQuota(Overloaded):
    """The gateway's account at the target's provider has no quota or credit left; waiting does not help."""

    status = 429
    code = kind = "insufficient_quota"
    retryable = False


class OutOfBytes(Overloaded):
    """The answer does not fit into the memory set aside for requests and answers; no other target is tried."""


class UpstreamAuth(AttemptFailed):
    """The target rejected the gateway's credentials, or they cannot be sent; the operator must replace them."""

    code = "upstream_auth"
    reason = Reason.UPSTREAM_AUTH
    retryable = False


class NotResident(AttemptFailed):
    """The target's weights are not loaded, or it is draining."""

    status = 503
    code = "not_resident"
    reason = Reason.NOT_RESIDENT
    may_have_begun = False


class DeadlineExceeded(AttemptFailed):
    """The request's deadline passed, an attempt exceeded its limit, or a stream its total limit."""

    status = 504
    code = "deadline_exceeded"
    reason = Reason.DEADLINE


class InvalidOutput(AttemptFailed):
    """The response does not match the requested format; `detail` names the schema keyword and pointer."""

    code = "invalid_output"
    reason = Reason.INVALID_OUTPUT
    retryable = False


class LowConfidence(AttemptFailed):
    """The answer's confidence is below the minimum, or the answer is blank."""

    code = "low_confidence"
    reason = Reason.LOW_CONFIDENCE
    retryable = False


class Unsupported(AttemptFailed):
    """The target does not support what the request requires."""

    status = 400
    code = "unsupported"
    kind = "invalid_request_error"
    reason = Reason.UNSUPPORTED
    retryable = False


class ContextLengthExceeded(AttemptFailed):
    """The request is longer than a target's context. `limit` is the context and `needed` what the request needs, both
    in tokens of that target; None: unknown."""

    status = 400
    code = "context_length_exceeded"
    kind = "invalid_request_error"
    reason = Reason.CONTEXT_LENGTH_EXCEEDED
    retryable = False

    def __init__(
        self, message: str, *, limit: int | None = None, needed: int | None = None, param: str = "", detail: str = ""
    ) -> None:
        super().__init__(message, detail=detail or "context length exceeded", param=param or "messages")
        self.limit, self.needed = limit, needed


class Refused(AttemptFailed):
    """The target rejected the request; status, code and message are the target's."""

    status = 400
    code = "refused"
    kind = "invalid_request_error"
    reason = Reason.REFUSED
    retryable = False

    def __init__(
        self, message: str, *, status: int = 400, code: str | None = None, param: str | None = None, detail: str = ""
    ) -> None:
        super().__init__(message, detail=detail or f"status {status}", param=param)
        self.status, self.code = status, code or "refused"


class NoRoute(GatewayError):
    """No candidate is available."""

    status = 503
    code = "no_route"


class NoTargetInLocation(NoRoute):
    """No candidate in the locations that the request is limited to is available; no retry if the route has none."""

    code = "no_target_in_location"

    def __init__(self, message: str, *, retry_after_s: float | None = None, retryable: bool = True) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.retryable = retryable


class NoPrivateTarget(NoTargetInLocation):
    """The request is private, and no candidate in the policy's `private_locations` is available."""

    code = "no_private_target"


class CannotStart(GatewayError):
    """A file is missing or invalid; the message is one line and names the cause. Exit code 2."""


class BadWeights(CannotStart):
    """The classifier weights are missing, damaged, or made for another version of the features."""


class TraceError(CannotStart):
    """A trace or decision log cannot be read. The message has the form `file:line:column: cause`."""

    def __init__(self, cause: str, *, file: Path, line: int = 0, column: int = 0) -> None:
        super().__init__(f"{file}:{line}:{column}: {cause}" if line else f"{file}: {cause}")


class NoLatency(CannotStart):
    """The simulation has no latency model for a target; the message names the target."""


class PolicyError(CannotStart):
    """The policy is missing or invalid. The message has the form `file:line:column: key: cause`."""

    def __init__(self, cause: str, *, file: str, line: int = 0, column: int = 0, key: str = "") -> None:
        position = f"{file}:{line}:{column}" if line else file
        super().__init__(f"{position}: {key}: {cause}" if key else f"{position}: {cause}", param=key or None)
        self.file, self.line, self.column, self.key = file, line, column, key


class PolicyUnreadable(PolicyError):
    """The policy file cannot be read. The cause may pass without a change of the file."""
