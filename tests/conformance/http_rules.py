"""Rules for all answers, for errors, and for the list of models."""

from typing import Final

from tests.conformance.exchange import Exchange
from tests.conformance.rules import STREAMS, WHOLE, is_int, must

_ERRORS: Final = ("unknown model", "malformed", "method", "invalid", "unknown path")


@must(*WHOLE, "models")
def _(e: Exchange) -> bool:
    """An answer is JSON with status 200."""
    return e.status == 200 and e.headers["content-type"].startswith("application/json") and isinstance(e.document, dict)


@must(*STREAMS)
def _(e: Exchange) -> bool:
    """A stream has status 200 and the type of server-sent events."""
    return e.status == 200 and e.headers["content-type"].startswith("text/event-stream") and len(e.frames) > 0


@must(*WHOLE, *STREAMS, *_ERRORS)
def _(e: Exchange) -> bool:
    """Every answer has a request id."""
    return bool(e.headers["x-request-id"])


@must("models")
def _(e: Exchange) -> bool:
    """Models are a list of objects with id, created and owned_by."""
    entries = e.document["data"]
    typed = [isinstance(m["id"], str) and is_int(m["created"]) and isinstance(m["owned_by"], str) for m in entries]
    return e.document["object"] == "list" and all(typed) and all(m["object"] == "model" for m in entries)


# Errors


@must(*_ERRORS)
def _(e: Exchange) -> bool:
    """An error has message, type, param and code, and nothing else."""
    error = e.document["error"]
    texts = isinstance(error["message"], str) and isinstance(error["type"], str)
    rest = all(error[name] is None or isinstance(error[name], str) for name in ("param", "code"))
    return e.document.keys() == {"error"} and error.keys() == {"message", "type", "param", "code"} and texts and rest


@must("malformed", "invalid")
def _(e: Exchange) -> bool:
    """An invalid request is a 400 of the type invalid_request_error."""
    return e.status == 400 and e.document["error"]["type"] == "invalid_request_error"


@must("invalid")
def _(e: Exchange) -> bool:
    """An error names the field at fault."""
    return bool(e.document["error"]["param"] == e.ask.kind.partition(": ")[2])


@must("unknown model")
def _(e: Exchange) -> bool:
    """An unknown model is a 404 with the code model_not_found."""
    error = e.document["error"]
    return e.status == 404 and (error["code"], error["param"]) == ("model_not_found", "model")


@must("unknown path")
def _(e: Exchange) -> bool:
    """An unknown path is a 404."""
    return e.status == 404


@must("method")
def _(e: Exchange) -> bool:
    """A method that the path does not have is a 405 that lists those it has."""
    return e.status == 405 and "POST" in e.headers["allow"]
