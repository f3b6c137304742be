"""Upstream client for Twolane's worker: forwards the deadline, keeps its extensions, and reads its load from every
response."""

from gateway.errors import AttemptFailed
from gateway.parameters import api_for
from gateway.types import Call, Status, Target
from gateway.upstreams.health import HealthPoller
from gateway.upstreams.http import ChatEndpoint, Reply
from gateway.upstreams.keys import TargetKey
from gateway.upstreams.openai import headers_for
from gateway.upstreams.request_body import body_for


class WorkerUpstream:
    """An Upstream for `kind: worker`. Targets at the same URL share a poller, because they are one process."""

    def __init__(self, target: Target, endpoint: ChatEndpoint, key: TargetKey, poller: HealthPoller) -> None:
        self._model = target.model
        self._endpoint = endpoint
        self._key = key
        self._poller = poller

    @property
    def status(self) -> Status:
        """As last reported by a poll or a response."""
        return self._poller.status_of(self._model)

    async def send(self, call: Call) -> Reply:
        """See `ports.Upstream`."""
        capabilities = call.target.capabilities or self.status.capabilities
        key, headers = self._key.value, headers_for(call)
        if call.left_ms is not None:
            headers["x-twolane-deadline-ms"] = str(max(1, int(call.left_ms)))
        if call.min_confidence is not None:
            headers["x-twolane-min-confidence"] = str(call.min_confidence)
        try:
            body = body_for(call, capabilities)
            api = api_for(call.target, capabilities, call.query)
            answer = await self._endpoint.post(body, headers, call.query, api, key=key)
        except AttemptFailed as fault:
            self._poller.record_failure(fault)
            raise
        self._poller.record_response(answer.headers)
        return answer

    async def aclose(self) -> None:
        """Nothing to close: the registry owns the poller, which other targets may share."""
