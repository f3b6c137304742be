"""Upstream client for servers with OpenAI's chat completions API. Their health is known only from calls."""

from collections.abc import Coroutine
from typing import Any, Final

from gateway.errors import AttemptFailed
from gateway.parameters import api_for
from gateway.types import Call, Status, Target
from gateway.upstreams.errors import error_object
from gateway.upstreams.http import ChatEndpoint, ErrorAnswer, Reply
from gateway.upstreams.keys import TargetKey
from gateway.upstreams.request_body import body_for
from twolane.process import exact_json

_STATUS: Final = Status()
_INVALID_FIELD: Final = (400, 422, 500, 501)  # some servers fail on an unknown field
_STREAM_OPTIONS: Final = "stream_options"
_MENTIONS: Final = (b"stream_options", b"include_usage")


class OpenAIUpstream:
    """An Upstream for `kind: openai`. The policy states its capabilities.

    The gateway asks every stream for its usage, which some servers reject as an unknown field. Such a server is called
    once more without it, and from then on never gets it.
    """

    def __init__(self, target: Target, endpoint: ChatEndpoint, key: TargetKey) -> None:
        self._endpoint = endpoint
        self._key = key
        self._takes_stream_options = True
        self._has_own_auth = any(name.lower() == "authorization" for name, _ in target.headers)

    @property
    def status(self) -> Status:
        """Such servers publish no status."""
        return _STATUS

    def send(self, call: Call) -> Coroutine[Any, Any, Reply]:
        """See `ports.Upstream`."""
        if call.query.stream and self._takes_stream_options:
            return self._request_usage(call)
        return self._post(call, stream_options=self._takes_stream_options)

    async def aclose(self) -> None:
        """Nothing to close: the session owns the connections."""

    async def _request_usage(self, call: Call) -> Reply:
        try:
            return await self._post(call, stream_options=True)
        except AttemptFailed as fault:
            answer = fault.__cause__
            if not isinstance(answer, ErrorAnswer) or not _mentions_stream_options(answer):
                raise
        reply = await self._post(call, stream_options=False)
        if _names_stream_options(answer, call.query.body):
            self._takes_stream_options = False
        return reply

    def _post(self, call: Call, *, stream_options: bool) -> Coroutine[Any, Any, Reply]:
        query, capabilities = call.query, call.target.capabilities
        key = "" if self._has_own_auth else self._key.value
        body = body_for(call, capabilities, stream_options=stream_options)
        return self._endpoint.post(body, headers_for(call), query, api_for(call.target, capabilities, query), key=key)


def _mentions_stream_options(answer: ErrorAnswer) -> bool:
    return answer.status in _INVALID_FIELD and any(word in answer.body for word in _MENTIONS)


def _names_stream_options(answer: ErrorAnswer, body: bytes) -> bool:
    """Whether the target itself names the field. A message may repeat the prompt, so one that could is no proof: a
    client must not change how the target is called for everybody."""
    if _STREAM_OPTIONS in str(error_object(answer.body).get("param")):
        return True
    document = exact_json.loads(body)
    given = {name: value for name, value in document.items() if name != _STREAM_OPTIONS}
    sent = exact_json.dumps(given)
    return not any(word in sent for word in _MENTIONS)


def headers_for(call: Call) -> dict[str, str]:
    """Headers of one call, beside those of all calls and of the key. Headers of the client are not forwarded."""
    query = call.query
    trace = query.trace
    if trace is None:
        return {"x-request-id": query.request_id}
    parent = trace.header(call.span_id) if call.span_id else trace.traceparent
    headers = {"x-request-id": query.request_id, "traceparent": parent}
    if trace.state:
        headers["tracestate"] = trace.state
    return headers
