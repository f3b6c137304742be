"""Everything that can go wrong in the gateway, as one tree. The web layer needs only the fields to answer on the wire.

GatewayError
├── BadRequest                the request itself is wrong; `param` names the field                      400
│   ├── MalformedBody         not JSON, or too deep to read                                             400
│   ├── InvalidField          a field of the wrong type, shape or range                                 400
│   ├── BodyTooLarge          more bytes than are read from anyone                                      413
│   ├── ModelNotFound         neither an alias nor a target                                             404
│   ├── NotFound              no such path                                                              404
│   ├── MethodNotAllowed      a path that wants another method                                          405
│   └── Unauthorized          no key, or an unknown one                                                 401
├── RateLimitExceeded                 a key has used what the policy grants it                                  429
├── AttemptFailed             one target did not answer well; `reason` decides what happens next
│   ├── UpstreamError         it broke, hung up, or spoke nonsense                                      502
│   ├── Overloaded            it has too much to do                                                     503
│   ├── NotResident           its weights are not in memory, or it is leaving                           503
│   ├── DeadlineExceeded      the request's time was over                                               504
│   ├── InvalidOutput         its answer breaks the request's schema                                    502
│   ├── LowConfidence         it doubts its own answer more than the route allows                       502
│   ├── Unsupported           it cannot honour what the request asks for                                400
│   └── Refused               it turned this request down; its own words are passed on                  as it said
├── NoRoute                   no candidate was left that could be called                                503
│   └── NoPrivateTarget       none of those left is inside the cluster                                  503
└── CannotStart               a file that cannot be used; one line names the cause (settings: twolane.process.errors)
    ├── BadWeights            trained weights that are missing, broken, or made for other features
    ├── TraceError            a trace or decision log that cannot be read; names file, line and column
    ├── NoLatency             a simulation that does not know how long a target takes
    └── PolicyError           a policy that is missing or wrong; names file, line, column and key
"""

# ruff: noqa: N818 - the names say what happened; "Error" behind each would only repeat the head of the tree.

from pathlib import Path
from typing import ClassVar

from gateway.enums import Reason


class GatewayError(Exception):
    """Head of the tree. `status` and `kind` are for HTTP, `code` is the stable word on the wire."""

    status: int = 500
    code: str = "internal_error"
    kind: ClassVar[str] = "server_error"  # OpenAI's `type`

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    @property
    def retryable(self) -> bool:
        """May the same request succeed later?"""
        return self.status in {429, 502, 503, 504}


class BadRequest(GatewayError):
    """The request itself is wrong; `param` names the field."""

    status = 400
    code = "invalid_request_error"
    kind = "invalid_request_error"


class MalformedBody(BadRequest):
    """Not JSON, or nested too deep to read."""

    code = "invalid_json"


class InvalidField(BadRequest):
    """A field of the wrong type, shape or range."""

    code = "invalid_value"


class BodyTooLarge(BadRequest):
    """More bytes than are read from anyone."""

    status = 413
    code = "request_too_large"


class ModelNotFound(BadRequest):
    """Neither an alias nor a target has this name."""

    status = 404
    code = "model_not_found"

    def __init__(self, model: str) -> None:
        super().__init__(f"The model {model!r} does not exist; GET /v1/models lists those that do.", param="model")


class NotFound(BadRequest):
    """No such path."""

    status = 404
    code = "unknown_url"


class MethodNotAllowed(BadRequest):
    """A path that wants another method."""

    status = 405
    code = "method_not_allowed"


class Unauthorized(BadRequest):
    """No key, or an unknown one."""

    status = 401
    code = "invalid_api_key"


class RateLimitExceeded(GatewayError):
    """A key has used what the policy grants it; `retry_after_s` tells when there is more."""

    status = 429
    code = "rate_limit_exceeded"
    kind = "rate_limit_error"


class AttemptFailed(GatewayError):
    """One target did not answer well; raised by adapters and checks, caught by the pipeline, which may fall back.

    `detail` goes to the decision log: status words and places in a schema, never text of prompts or answers.
    """

    status = 502
    reason: ClassVar[Reason] = Reason.UPSTREAM_ERROR

    def __init__(
        self, message: str, *, detail: str = "", param: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, param=param, retry_after_s=retry_after_s)
        self.detail = detail or message


class UpstreamError(AttemptFailed):
    """It broke, hung up, or spoke nonsense."""

    code = "upstream_error"


class Overloaded(AttemptFailed):
    """It has too much to do; `retry_after_s` as it said."""

    status = 503
    code = "overloaded"
    reason = Reason.OVERLOADED


class NotResident(AttemptFailed):
    """Its weights are not in memory, or it is leaving."""

    status = 503
    code = "not_resident"
    reason = Reason.NOT_RESIDENT


class DeadlineExceeded(AttemptFailed):
    """The request's time was over."""

    status = 504
    code = "deadline_exceeded"
    reason = Reason.DEADLINE


class InvalidOutput(AttemptFailed):
    """Its answer breaks the request's schema; `detail` names keyword and place in the schema."""

    code = "invalid_output"
    reason = Reason.INVALID_OUTPUT


class LowConfidence(AttemptFailed):
    """It doubts its own answer more than the route allows."""

    code = "low_confidence"
    reason = Reason.LOW_CONFIDENCE


class Unsupported(AttemptFailed):
    """It cannot honour what the request asks for."""

    status = 400
    code = "unsupported"
    kind = "invalid_request_error"
    reason = Reason.UNSUPPORTED


class Refused(AttemptFailed):
    """It turned this request down; status, code and words are the target's own."""

    status = 400
    code = "refused"
    kind = "invalid_request_error"
    reason = Reason.REFUSED

    def __init__(
        self, message: str, *, status: int = 400, code: str | None = None, param: str | None = None, detail: str = ""
    ) -> None:
        super().__init__(message, detail=detail or f"status {status}", param=param)
        self.status = status
        self.code = code or "refused"


class NoRoute(GatewayError):
    """No candidate was left that could be called."""

    status = 503
    code = "no_route"


class NoPrivateTarget(NoRoute):
    """The request must stay in the cluster and nobody there could answer."""

    code = "no_private_target"


class CannotStart(GatewayError):
    """Configuration that cannot be used; the message is one line and names the cause. Exit code 2."""


class BadWeights(CannotStart):
    """Trained weights that are missing, broken, or made for other features."""


class TraceError(CannotStart):
    """A trace or decision log that cannot be read. The message reads `file:line:column: cause`."""

    def __init__(self, cause: str, *, file: Path, line: int = 0, column: int = 0) -> None:
        super().__init__(f"{file}:{line}:{column}: {cause}" if line else f"{file}: {cause}")


class NoLatency(CannotStart):
    """A simulation that does not know how long a target takes; the message names the target."""


class PolicyError(CannotStart):
    """A policy that is missing or wrong. The message reads `file:line:column: key: cause`."""

    def __init__(self, cause: str, *, file: str, line: int = 0, column: int = 0, key: str = "") -> None:
        place = f"{file}:{line}:{column}" if line else file
        super().__init__(f"{place}: {key}: {cause}" if key else f"{place}: {cause}", param=key or None)
        self.file = file
        self.line = line
        self.column = column
        self.key = key
