"""One upstream client per target, created on first use, and one health poller per worker process.

The only module that selects an adapter by kind.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from yarl import URL

from gateway.enums import Kind, Residency
from gateway.errors import CannotStart, UpstreamError
from gateway.ports import Upstream
from gateway.types import Status, Target
from gateway.upstreams.http import ChatEndpoint
from gateway.upstreams.http_client.client import ClientByScheme, HttpClient
from gateway.upstreams.keys import KeyWatcher, TargetKey, read_target_key, works_without_key
from gateway.upstreams.litellm import LiteLLMLibrary, LiteLLMUpstream
from gateway.upstreams.openai import OpenAIUpstream
from gateway.upstreams.proxies import litellm_proxy, proxy_of

if TYPE_CHECKING:  # aiohttp takes longer to import than the rest of a start: only where a target needs it
    import aiohttp

    from gateway.upstreams.health import HealthPoller

_log = logging.getLogger("gateway")


class UpstreamRegistry:
    """Call it with a target. `on_return` receives the targets of a worker that is reachable again."""

    def __init__(
        self,
        open_session: "Callable[[], aiohttp.ClientSession]",
        on_return: Callable[[str], None],
        *,
        plain: HttpClient | None = None,
        health_timeout_s: float = 1.0,
    ) -> None:
        """`plain` calls targets at http:// URLs without a proxy; None: the session does, which is opened when a target
        needs it. Closes both."""
        self._open_session = open_session
        self._session: aiohttp.ClientSession | None = None
        self._client = self._over_session() if plain is None else ClientByScheme(plain, self._over_session)
        self._health_timeout_s = health_timeout_s
        self._on_return = on_return
        self._upstreams: dict[str, tuple[Target, Upstream]] = {}
        self._keys: dict[str, TargetKey] = {}
        self._key_watcher = KeyWatcher()
        self._watching: asyncio.Task[None] | None = None
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

    def status_of(self, target: Target) -> Status:
        """The last known status of this target. An endpoint that the running policy has no longer is unreachable: its
        address may belong to another party, and a request that began before must not be tried again there."""
        if target.pool is not None and target.name not in self._upstreams:
            return Status(residency=Residency.UNREACHABLE)
        return self(target).status

    def set_targets(self, targets: Iterable[Target]) -> None:
        """Set the targets of the running policy: create new clients, stop polling workers that were removed, follow
        the key files. Logs what is wrong with keys and proxies."""
        wanted = {target.name: target for target in targets}
        self._upstreams = {name: known for name, known in self._upstreams.items() if name in wanted}
        for target in wanted.values():
            self(target)
        self._keys = {name: key for name, key in self._keys.items() if name in wanted}
        self._key_watcher.set_keys(list(self._keys.values()))
        if self._watching is None and any(key.file is not None for key in self._keys.values()):
            self._watching = asyncio.create_task(self._key_watcher.run(), name="key files")
        for problem in credential_problems(wanted.values(), os.environ):
            _log.log(logging.INFO if problem.is_minor else logging.WARNING, "%s", problem.text)
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
        tasks += [self._watching] if self._watching is not None else []
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self._providers.aclose()
        await self._client.aclose()
        if self._session is not None:
            await self._session.close()

    def _make(self, target: Target) -> Upstream:
        key = self._keys[target.name] = TargetKey(target, os.environ)
        if target.kind is Kind.LITELLM:
            return LiteLLMUpstream(self._providers, key)
        proxy = proxy_of(target, os.environ)
        if isinstance(self._client, ClientByScheme) and (proxy is not None or not target.url.startswith("http://")):
            self._client.other()  # now, not with the first call
        endpoint = ChatEndpoint(target, self._client, proxy)
        if target.kind is Kind.WORKER:
            from gateway.upstreams.worker import WorkerUpstream

            return WorkerUpstream(target, endpoint, key, self._poller_for(target, key))
        if target.kind is Kind.OPENAI:
            return OpenAIUpstream(target, endpoint, key)
        raise ValueError(f"no adapter for targets of kind {target.kind}")  # the policy loader refuses these

    def _shared_session(self) -> "aiohttp.ClientSession":
        if self._session is None:
            self._session = self._open_session()
        return self._session

    def _over_session(self) -> HttpClient:
        from gateway.upstreams.http_client.aiohttp_client import AiohttpClient

        return AiohttpClient(self._shared_session())

    def _poller_for(self, target: Target, key: TargetKey) -> "HealthPoller":
        if target.url not in self._pollers:
            from gateway.upstreams.health import HealthPoller

            poller = HealthPoller(
                target.url,
                self._shared_session(),
                key=lambda: key.value,
                on_return=lambda: self._notify_return(target.url),
                timeout_s=self._health_timeout_s,
            )
            self._pollers[target.url] = (poller, asyncio.create_task(poller.run(), name=f"health poller {target.url}"))
        return self._pollers[target.url][0]

    def _notify_return(self, url: str) -> None:
        for target, _ in self._upstreams.values():
            if target.url == url:
                self._on_return(target.name)


class CredentialProblem(NamedTuple):
    """What is wrong with the key or the proxy of a target; never contains a key. `is_minor`: a variable is not set for
    a target that probably needs no key."""

    text: str
    is_minor: bool = False


def credential_problems(targets: Iterable[Target], environment: Mapping[str, str]) -> Iterator[CredentialProblem]:
    """What is wrong with the keys and proxies of targets."""
    seen: set[str] = set()
    for target in targets:
        if target.policy_name in seen:  # endpoints of one target share its key
            continue
        seen.add(target.policy_name)
        key, proxy = read_target_key(target, environment), proxy_of(target, environment)
        if key.problem is not None:
            is_minor = key.is_unset and works_without_key(target)
            yield CredentialProblem(f"target {target.policy_name}: {key.problem}", is_minor)
        if proxy is not None and proxy.problem is not None:
            yield CredentialProblem(f"target {target.policy_name}: {proxy.problem}")
        if target.kind is Kind.LITELLM and not target.uses_proxy and (known := litellm_proxy(target, environment)):
            yield CredentialProblem(
                f"target {target.policy_name}: litellm calls it through the proxy of {known.variable};"
                " set `proxy: true` if private requests may take it, or list the host in NO_PROXY"
            )


def describe_call(target: Target, environment: Mapping[str, str]) -> str:
    """What a request to this target is: the URL that is called, and whether a proxy is used. Values of a query may be
    credentials, so only the API version is shown."""
    if target.kind is Kind.LITELLM:
        base = "" if target.url.startswith("litellm:") else f" at {target.url}"
        return f"{target.model} through litellm{base}"
    url = URL(target.chat_url, encoded=True)
    shown = {name: value if name == "api-version" else "***" for name, value in url.query.items()}
    proxy = proxy_of(target, environment)
    through = f" through the proxy of {proxy.variable}" if proxy else ""
    return f"POST {url.with_query(None)}{'?' if shown else ''}{'&'.join(map('='.join, shown.items()))}{through}"
