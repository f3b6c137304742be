"""Who caused an error that a client received. Only errors of targets and of the gateway are the operator's concern."""

from typing import Final

from gateway.enums import ErrorSource
from gateway.errors import (
    AttemptFailed,
    BadRequest,
    ContextLengthExceeded,
    DeadlineExceeded,
    GatewayError,
    NoTargetInLocation,
    OutOfBytes,
    RateLimitExceeded,
    Refused,
    Unsupported,
)
from gateway.types import Plan

_OF_CLIENTS: Final = (BadRequest, RateLimitExceeded, Unsupported, ContextLengthExceeded, Refused)


def error_source(error: GatewayError | None, plan: Plan) -> ErrorSource:
    """An error without a cause is a defect of the gateway. A deadline that the client shortened is its own, and so is a
    limit to locations where the route has no target."""
    if isinstance(error, _OF_CLIENTS) or (isinstance(error, DeadlineExceeded) and plan.patience_ms is not None):
        return ErrorSource.CLIENT
    if isinstance(error, NoTargetInLocation) and not plan.candidates:
        return ErrorSource.CLIENT
    is_of_target = isinstance(error, AttemptFailed) and not isinstance(error, OutOfBytes)
    return ErrorSource.TARGET if is_of_target else ErrorSource.GATEWAY
