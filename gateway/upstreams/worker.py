"""Upstream client for Twolane's worker: forwards the deadline, keeps its extensions, and reads its load from every
response."""

from gateway.errors import AttemptFailed
from gateway.parameters import api_for
from gateway.types import Call, Status, Target
from gateway.upstreams.health import HealthPoller
from gateway.upstreams.http import ChatEndpoint, ErrorAnswer, HttpReply
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

    async def send(self, call: Call) -> HttpReply:
        """See `ports.Upstream`."""
        capabilities = call.target.capabilities or self.status.capabilities
        headers = headers_for(call, key=self._key.value)
        if call.left_ms is not None:
            headers["x-twolane-deadline-ms"] = str(max(1, int(call.left_ms)))
        if call.min_confidence is not None:
            headers["x-twolane-min-confidence"] = str(call.min_confidence)
        try:
            body = body_for(call, capabilities)
            answer = await self._endpoint.post(
                body, headers, call.query, api_for(call.target, capabilities, call.query)
            )
            if isinstance(answer, ErrorAnswer):
                raise answer.fault()
        except AttemptFailed as fault:
            self._poller.record_failure(fault)
            raise
        self._poller.record_response(answer.headers)
        return answer

    async def aclose(self) -> None:
        """Nothing to close: the registry owns the poller, which other targets may share."""
