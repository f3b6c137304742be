"""One door per target, made when first needed, and one watch per worker process behind them.

The only place that chooses an adapter by kind. Knows neither routes nor requests.
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
from gateway.upstreams.litellm import Library, LiteLLMUpstream
from gateway.upstreams.openai import OpenAIUpstream, key_of
from gateway.upstreams.worker import WorkerUpstream

_PROVIDER_IDLE_S = 60.0


class UpstreamRegistry:
    """Call it with a target. `on_return` is told the names of a worker's targets when that worker is back."""

    def __init__(
        self, session: aiohttp.ClientSession, on_return: Callable[[str], None], *, health_timeout_s: float = 1.0
    ) -> None:
        self._session = session
        self._health_timeout_s = health_timeout_s
        self._on_return = on_return
        self._doors: dict[str, tuple[Target, Upstream]] = {}
        self._watches: dict[str, tuple[HealthPoller, asyncio.Task[None]]] = {}
        self._providers = Library()

    def __call__(self, target: Target) -> Upstream:
        """The door to this target; a target that changed under its name gets a new one."""
        known = self._doors.get(target.name)
        if known is not None and (known[0] is target or known[0] == target):
            return known[1]
        door = self._make(target)
        self._doors[target.name] = (target, door)
        return door

    def keep(self, targets: Iterable[Target]) -> None:
        """These are the targets of the running policy: open what is new, stop watching what is gone."""
        wanted = {target.name: target for target in targets}
        self._doors = {name: known for name, known in self._doors.items() if name in wanted}
        for target in wanted.values():
            self(target)
        urls = {target.url for target in wanted.values() if target.kind is Kind.WORKER}
        for url in [url for url in self._watches if url not in urls]:
            self._watches.pop(url)[1].cancel()

    async def ready(self, targets: Iterable[Target]) -> None:
        """Load what these need and what takes long, before anybody asks them. Raises CannotStart if it cannot be."""
        if any(target.kind is Kind.LITELLM for target in targets):
            try:
                await self._providers.loaded()
            except UpstreamError as fault:
                raise CannotStart(fault.message) from fault

    async def aclose(self) -> None:
        """Stop watching and hang up on everybody."""
        tasks = [task for _, task in self._watches.values()]
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self._providers.aclose()
        await self._session.close()

    def _make(self, target: Target) -> Upstream:
        if target.kind is Kind.WORKER:
            return WorkerUpstream(target, self._session, self._watch(target))
        if target.kind is Kind.LITELLM:
            return LiteLLMUpstream(target, self._providers, idle_s=self._session.timeout.sock_read or _PROVIDER_IDLE_S)
        if target.kind is Kind.OPENAI:
            return OpenAIUpstream(target, self._session)
        raise ValueError(f"no adapter speaks to a target of kind {target.kind}")  # the policy loader refuses these

    def _watch(self, target: Target) -> HealthPoller:
        if target.url not in self._watches:
            watch = HealthPoller(
                target.url,
                self._session,
                key=key_of(target),
                on_return=lambda: self._returned(target.url),
                timeout_s=self._health_timeout_s,
            )
            self._watches[target.url] = (watch, asyncio.create_task(watch.run(), name=f"watch {target.url}"))
        return self._watches[target.url][0]

    def _returned(self, url: str) -> None:
        for target, _ in self._doors.values():
            if target.url == url:
                self._on_return(target.name)
