"""POST /v1/feedback: whether an answer was good, and which task a request was. It goes to the decision log, and counts
for the requests per minute of its API key: every feedback is a line of the log."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.responses import Response

from gateway.enums import Task
from gateway.errors import BodyTooLarge, InvalidField, MalformedBody, NotFound
from gateway.web.apis.feedback_log import FeedbackLog
from gateway.web.routes import json_response
from twolane.process import exact_json
from twolane.process.api_keys import Key

FEEDBACK_PATH: Final = "/v1/feedback"
MAX_BODY_BYTES: Final = 16_384
RATINGS: Final = ("good", "bad")
_FIELDS: Final = ("request_id", "rating", "task")
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def add_feedback_route(app: FastAPI, log: FeedbackLog) -> None:
    """Every feedback counts for the limit of its key, also one that is refused."""

    @app.post(FEEDBACK_PATH)
    async def feedback(request: Request) -> Response:
        """Record feedback on an answer. It is not checked whether the gateway knows the request: another replica may
        have answered it."""
        if log.record is None:
            raise NotFound("This gateway does not record feedback: it runs without a decision log.")
        key: Key | None = request.scope.get("state", {}).get("key")
        log.admit(key.name if key else None)
        given = read_feedback(await _body(request))
        time = datetime.fromtimestamp(log.wall_s(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        log.record({"event": "feedback", "time": time, "principal": key.name if key else None, **given})
        return json_response({"object": "feedback", **given}, status=202)


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY_BYTES:
            raise BodyTooLarge(f"The request body exceeds the limit of {MAX_BODY_BYTES} bytes.")
    return bytes(body)


def read_feedback(body: bytes) -> dict[str, Any]:
    """The feedback in a request body. Raises MalformedBody or InvalidField, which names the field."""
    try:
        given = exact_json.loads(body)
    except ValueError as error:
        raise MalformedBody("The request body is not valid JSON.") from error
    if not isinstance(given, Mapping):
        raise MalformedBody("The request body must be a JSON object.")
    unknown = sorted(str(name) for name in given if name not in _FIELDS)
    if unknown:
        raise InvalidField(f"Unknown field {unknown[0]!r}; allowed: {', '.join(_FIELDS)}.", param=unknown[0])
    request_id, rating, task = (given.get(name) for name in _FIELDS)
    if not isinstance(request_id, str) or not _REQUEST_ID.fullmatch(request_id):
        raise InvalidField("'request_id' must be the value of a response's x-request-id.", param="request_id")
    if rating not in (None, *RATINGS):
        raise InvalidField(f"'rating' must be one of {', '.join(RATINGS)}.", param="rating")
    if task is not None and task not in tuple(Task):
        raise InvalidField(f"'task' must be one of {', '.join(Task)}.", param="task")
    if rating is None and task is None:
        raise InvalidField("Set 'rating', 'task' or both.", param="rating")
    return {"request_id": request_id, "rating": rating, "task": task}
