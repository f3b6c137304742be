"""What every request passes before a route sees it: browsers, API keys, and the size of its body."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from starlette.types import ASGIApp, Scope, Send

from gateway.settings import Settings
from gateway.web.asgi_responses import refuse_body
from gateway.web.auth import Authenticate, admin_scope, key_for
from gateway.web.browser_guard import BrowserCheck, BrowserGuard
from gateway.web.console.guard import ROOT, BelowPath
from gateway.web.cors import Origins, Preflight
from gateway.web.headers import GATEWAY
from twolane.process.api_keys import Keys, KeyScope
from twolane.process.http.bounded_bodies import BoundedBodies
from twolane.process.http.byte_budget import HOLDING, IN_SCOPE, BudgetExceededError, ByteBudget, Holding
from twolane.process.http.connection import ClientConnection, Listener
from twolane.process.http.limits import Broken, limits_of
from twolane.process.http.request_cycle import BODY, Headers, RequestCycle
from twolane.process.http_body import BodyTooLargeError
from twolane.process.keys_file import KeysFile

_SEND: Final = KeyScope.SEND  # finding a member in its class takes 0.2 µs


@dataclass(frozen=True, kw_only=True)
class Protection:
    """Of both ports. `on_refused` is called with the reason when the listener or the byte budget refuses a request."""

    settings: Settings
    keys: KeysFile | None
    budget: ByteBudget
    on_refused: Callable[[str], None]

    def public(self, app: ASGIApp) -> ASGIApp:
        """The application of the public port, without what `preflight` adds outside of everything else."""
        return self._guarded(Authenticate(self._bounded(app), self._keys()))

    def direct(self, apps: Mapping[str, ASGIApp]) -> Callable[[Scope], ASGIApp | None]:
        """Finds the application at one of the paths of `apps` for a request whose whole body has arrived and that all
        layers of `public` would pass on: they are skipped. None: they decide."""
        keys, browsers = self.keys, BrowserCheck(self.settings.allowed_hosts)
        largest = self.settings.max_body_bytes

        def find(scope: Scope) -> ASGIApp | None:
            app = apps.get(scope["path"])
            if app is None or BODY not in scope or scope[IN_SCOPE].size > largest:
                return None
            holding: Holding = scope[IN_SCOPE]
            if keys is None:
                if browsers.problem(scope) is not None:
                    return None
            else:
                key = key_for(scope, keys.current)
                if key is None or _SEND not in key.scopes:
                    return None
                scope["state"]["key"] = key
                holding.assign(key.name)
            HOLDING.set(holding)
            return app

        return find

    def preflight(self, app: ASGIApp) -> ASGIApp:
        """The application of the public port, which also answers preflight requests of browsers."""
        return Preflight(app, self._origins) if self._origins else app

    def admin(self, app: ASGIApp, console: ASGIApp | None = None) -> ASGIApp:
        """The application of the admin port, and the console, which has a guard of its own in place of API keys."""
        known = Authenticate(self._bounded(app), self._keys(), admin_scope)
        return self._guarded(known if console is None else BelowPath(ROOT, self._bounded(console), known))

    def public_listener(self, arrive: Callable[[ClientConnection, RequestCycle], None]) -> Listener:
        """The client connections of the public port; see `Listener` for `arrive`."""
        limits, added = limits_of(self.settings), self._added_headers()
        return Listener(limits, self.on_refused, arrive, budget=self.budget, added_headers=added)

    def admin_listener(self) -> Listener:
        """The client connections of the admin port."""
        return Listener(limits_of(self.settings), self.on_refused, budget=self.budget)

    def _added_headers(self) -> Callable[[Headers], Headers]:
        """Those of every response of the public port, by the headers of its request: the replica, and CORS."""
        name, origins = self.settings.replica_name, self._origins
        own: Headers = () if name is None else ((GATEWAY, name.encode()),)
        if origins is None:
            return lambda _headers: own
        return lambda headers: (*own, *origins.headers(headers))

    @cached_property
    def _origins(self) -> Origins | None:
        return Origins(self.settings.cors_origins) if self.settings.cors_origins else None

    def _keys(self) -> Callable[[], Keys] | None:
        keys = self.keys
        return None if keys is None else lambda: keys.current

    def _guarded(self, app: ASGIApp) -> ASGIApp:
        """With keys, pages and foreign hosts are kept out by the key that they lack."""
        return BrowserGuard(app, self.settings.allowed_hosts) if self.keys is None else app

    def _bounded(self, app: ASGIApp) -> ASGIApp:
        return BoundedBodies(app, self.budget, max_body_bytes=self.settings.max_body_bytes, refuse=self._refuse)

    async def _refuse(self, scope: Scope, send: Send, fault: BodyTooLargeError | BudgetExceededError) -> None:
        if isinstance(fault, BudgetExceededError):
            self.on_refused(Broken.BYTE_BUDGET)
        await refuse_body(send, fault, path=scope["path"])
