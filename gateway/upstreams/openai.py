"""The door to any server that speaks OpenAI's chat completions. Knows nothing of its health but what calls show."""

import os

import aiohttp
from yarl import URL

from gateway.types import Call, Status, Target
from gateway.upstreams.http import HttpReply, post
from gateway.upstreams.request_body import body_for

_STATUS = Status()


class OpenAIUpstream:
    """An Upstream for `kind: openai`; its capabilities are the policy's word."""

    def __init__(self, target: Target, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._url = URL(f"{target.url}/v1/chat/completions")
        self._key = key_of(target)

    @property
    def status(self) -> Status:
        """Nothing is known without asking."""
        return _STATUS

    async def send(self, call: Call) -> HttpReply:
        """See `ports.Upstream`."""
        body = body_for(call, call.target.capabilities)
        return await post(self._session, self._url, body, headers_for(call, key=self._key))

    async def aclose(self) -> None:
        """Connections belong to the session."""


def key_of(target: Target) -> str:
    """The credential itself, from the environment; empty if the policy names none or it is not set."""
    return os.environ.get(target.key_env, "") if target.key_env else ""


def headers_for(call: Call, *, key: str = "") -> dict[str, str]:
    """What every target is told beside the body. Headers of the client are not passed on."""
    headers = {
        "content-type": "application/json",
        "accept-encoding": "identity",
        "x-request-id": call.query.request_id,
    }
    trace = call.query.trace
    if trace is not None:
        headers["traceparent"] = trace.header(call.span_id)
        if trace.state:
            headers["tracestate"] = trace.state
    if key:
        headers["authorization"] = f"Bearer {key}"
    return headers
