"""Upstream client for servers with OpenAI's chat completions API. Their health is known only from calls."""

from collections.abc import Coroutine, Mapping
from typing import Any, Final, TypeGuard

from gateway.parameters import api_for
from gateway.types import Call, Status, Target
from gateway.upstreams.errors import error_object
from gateway.upstreams.http import ChatEndpoint, ErrorAnswer, HttpReply
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

    async def send(self, call: Call) -> HttpReply:
        """See `ports.Upstream`."""
        stream = call.query.stream
        headers = headers_for(call, key="" if self._has_own_auth else self._key.value)
        answer = await self._post(call, headers, stream_options=self._takes_stream_options)
        if stream and self._takes_stream_options and _mentions_stream_options(answer):
            is_named = _names_stream_options(answer, call.query.body)
            answer = await self._post(call, headers, stream_options=False)
            if is_named and not isinstance(answer, ErrorAnswer):
                self._takes_stream_options = False
        if isinstance(answer, ErrorAnswer):
            raise answer.fault()
        return answer

    async def aclose(self) -> None:
        """Nothing to close: the session owns the connections."""

    def _post(
        self, call: Call, headers: Mapping[str, str], *, stream_options: bool
    ) -> Coroutine[Any, Any, HttpReply | ErrorAnswer]:
        capabilities = call.target.capabilities
        body = body_for(call, capabilities, stream_options=stream_options)
        return self._endpoint.post(body, headers, call.query, api_for(call.target, capabilities, call.query))


def _mentions_stream_options(answer: HttpReply | ErrorAnswer) -> TypeGuard[ErrorAnswer]:
    if not isinstance(answer, ErrorAnswer) or answer.status not in _INVALID_FIELD:
        return False
    return any(word in answer.body for word in _MENTIONS)


def _names_stream_options(answer: ErrorAnswer, body: bytes) -> bool:
    """Whether the target itself names the field. A message may repeat the prompt, so one that could is no proof: a
    client must not change how the target is called for everybody."""
    if _STREAM_OPTIONS in str(error_object(answer.body).get("param")):
        return True
    document = exact_json.loads(body)
    given = {name: value for name, value in document.items() if name != _STREAM_OPTIONS}
    sent = exact_json.dumps(given)
    return not any(word in sent for word in _MENTIONS)


def headers_for(call: Call, *, key: str = "") -> dict[str, str]:
    """Headers of one call, beside those of all calls. Headers of the client are not forwarded."""
    headers = {"x-request-id": call.query.request_id}
    trace = call.query.trace
    if trace is not None:
        headers["traceparent"] = trace.header(call.span_id)
        if trace.state:
            headers["tracestate"] = trace.state
    if key:
        headers["authorization"] = f"Bearer {key}"
    return headers
