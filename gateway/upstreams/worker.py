"""The door to our own worker: the deadline travels, its extensions stay, and every answer tells how busy it is."""

import aiohttp
from yarl import URL

from gateway.errors import AttemptFailed
from gateway.types import Call, Status, Target
from gateway.upstreams.health import HealthPoller
from gateway.upstreams.http import HttpReply, post
from gateway.upstreams.openai import headers_for, key_of
from gateway.upstreams.request_body import body_for


class WorkerUpstream:
    """An Upstream for `kind: worker`. Targets behind the same URL share a watch: they are one process."""

    def __init__(self, target: Target, session: aiohttp.ClientSession, watch: HealthPoller) -> None:
        self._model = target.model
        self._session = session
        self._url = URL(f"{target.url}/v1/chat/completions")
        self._key = key_of(target)
        self._watch = watch

    @property
    def status(self) -> Status:
        """As the worker last said, in a poll or an answer."""
        return self._watch.status_of(self._model)

    async def send(self, call: Call) -> HttpReply:
        """See `ports.Upstream`."""
        capabilities = call.target.capabilities or self.status.capabilities
        headers = headers_for(call, key=self._key)
        if call.left_ms is not None:
            headers["x-twolane-deadline-ms"] = str(max(1, int(call.left_ms)))
        try:
            body = body_for(call, capabilities)
            reply = await post(self._session, self._url, body, headers)
        except AttemptFailed as fault:
            self._watch.learn_fault(fault)
            raise
        self._watch.learn_answer(reply.headers)
        return reply

    async def aclose(self) -> None:
        """The watch may serve others; whoever made it closes it."""
