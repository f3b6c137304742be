"""Upstream client for servers with OpenAI's chat completions API. Their health is known only from calls."""

import os

import aiohttp
from yarl import URL

from gateway.types import Call, Status, Target
from gateway.upstreams.http import HttpReply, post
from gateway.upstreams.request_body import body_for

_STATUS = Status()


class OpenAIUpstream:
    """An Upstream for `kind: openai`. The policy states its capabilities."""

    def __init__(self, target: Target, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._url = URL(f"{target.url}/v1/chat/completions")
        self._key = key_of(target)

    @property
    def status(self) -> Status:
        """Such servers publish no status."""
        return _STATUS

    async def send(self, call: Call) -> HttpReply:
        """See `ports.Upstream`."""
        body = body_for(call, call.target.capabilities)
        return await post(self._session, self._url, body, headers_for(call, key=self._key))

    async def aclose(self) -> None:
        """Nothing to close: the session owns the connections."""


def key_of(target: Target) -> str:
    """The API key, from the environment variable that the policy names; empty if there is none."""
    return os.environ.get(target.key_env, "") if target.key_env else ""


def headers_for(call: Call, *, key: str = "") -> dict[str, str]:
    """Headers sent to every target. Headers of the client are not forwarded."""
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
