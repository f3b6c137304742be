"""One upstream client per target, created on first use, and one health poller per worker process.

The only module that selects an adapter by kind.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable

import aiohttp

from gateway.enums import Kind
from gateway.errors import CannotStart, UpstreamError
from gateway.ports import Upstream
from gateway.types import Target
from gateway.upstreams.health import HealthPoller
from gateway.upstreams.litellm import LiteLLMLibrary, LiteLLMUpstream
from gateway.upstreams.openai import OpenAIUpstream, key_of
from gateway.upstreams.worker import WorkerUpstream


class UpstreamRegistry:
    """Call it with a target. `on_return` receives the targets of a worker that is reachable again."""

    def __init__(
        self, session: aiohttp.ClientSession, on_return: Callable[[str], None], *, health_timeout_s: float = 1.0
    ) -> None:
        self._session = session
        self._health_timeout_s = health_timeout_s
        self._on_return = on_return
        self._upstreams: dict[str, tuple[Target, Upstream]] = {}
        self._pollers: dict[str, tuple[HealthPoller, asyncio.Task[None]]] = {}
        self._providers = LiteLLMLibrary()

    def __call__(self, target: Target) -> Upstream:
        """The client of this target; a target whose definition changed gets a new one."""
        known = self._upstreams.get(target.name)
        if known is not None and (known[0] is target or known[0] == target):
            return known[1]
        upstream = self._make(target)
        self._upstreams[target.name] = (target, upstream)
        return upstream

    def set_targets(self, targets: Iterable[Target]) -> None:
        """Set the targets of the running policy: create new clients, stop polling workers that were removed."""
        wanted = {target.name: target for target in targets}
        self._upstreams = {name: known for name, known in self._upstreams.items() if name in wanted}
        for target in wanted.values():
            self(target)
        urls = {target.url for target in wanted.values() if target.kind is Kind.WORKER}
        for url in [url for url in self._pollers if url not in urls]:
            self._pollers.pop(url)[1].cancel()

    async def prepare(self, targets: Iterable[Target]) -> None:
        """Load what these targets need before the first request, such as litellm. Raises CannotStart if it is
        unavailable."""
        if any(target.kind is Kind.LITELLM for target in targets):
            try:
                await self._providers.loaded()
            except UpstreamError as fault:
                raise CannotStart(fault.message) from fault

    async def aclose(self) -> None:
        """Stop polling and close all connections."""
        tasks = [task for _, task in self._pollers.values()]
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self._providers.aclose()
        await self._session.close()

    def _make(self, target: Target) -> Upstream:
        if target.kind is Kind.WORKER:
            return WorkerUpstream(target, self._session, self._poller_for(target))
        if target.kind is Kind.LITELLM:
            return LiteLLMUpstream(target, self._providers)
        if target.kind is Kind.OPENAI:
            return OpenAIUpstream(target, self._session)
        raise ValueError(f"no adapter for targets of kind {target.kind}")  # the policy loader refuses these

    def _poller_for(self, target: Target) -> HealthPoller:
        if target.url not in self._pollers:
            poller = HealthPoller(
                target.url,
                self._session,
                key=key_of(target),
                on_return=lambda: self._notify_return(target.url),
                timeout_s=self._health_timeout_s,
            )
            self._pollers[target.url] = (poller, asyncio.create_task(poller.run(), name=f"health poller {target.url}"))
        return self._pollers[target.url][0]

    def _notify_return(self, url: str) -> None:
        for target, _ in self._upstreams.values():
            if target.url == url:
                self._on_return(target.name)
