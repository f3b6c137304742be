"""Protects the console from other web pages, and requires a session where the gateway requires API keys.

A browser sends the session's cookie with every request to the console. SameSite keeps it from requests of other sites,
but pages of other ports of the same host belong to the same site. So requests must come from a page of this origin
(`Origin`, `Sec-Fetch-Site`), and all that change or send anything carry a header that other origins cannot add without
a preflight, which the admin port never answers.
"""

from collections.abc import Mapping
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import ForbiddenOrigin, GatewayError, PermissionDenied, Unauthorized
from gateway.web.asgi_responses import send_early_error
from gateway.web.console.sessions import Sessions, cookie_in
from twolane.process.api_keys import Key, KeyScope, key_of

ROOT: Final = "/console"
API: Final = "/console/api/"
SEND: Final = "/console/send/"  # followed by the path of an API, such as v1/chat/completions
SESSION: Final = "/console/session"
HEADER: Final = b"x-twolane-console"
_SAFE: Final = frozenset({"GET", "HEAD"})
_OWN_SITES: Final = frozenset({b"same-origin", b"none"})
_ORIGIN: Final = "The console accepts requests of its own pages only."


class BelowPath:
    """ASGI middleware: requests for a path, and for all below it, go to an application of their own."""

    def __init__(self, path: str, app: ASGIApp, others: ASGIApp) -> None:
        self._path, self._below = path, f"{path}/"
        self._app = app
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward the request."""
        is_below = scope["type"] == "http" and (scope["path"] == self._path or scope["path"].startswith(self._below))
        await (self._app if is_below else self._others)(scope, receive, send)


class ConsoleGuard:
    """ASGI middleware. `sessions` None: the gateway requires no keys.

    `scope["state"]["key"]` is that of the session below API, and that of the `Authorization` header below SEND, which
    must allow to send requests."""

    def __init__(self, app: ASGIApp, sessions: Sessions | None) -> None:
        self._app = app
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward the request, or respond with 401 or 403."""
        problem = self._origin_problem(scope)
        if problem is None and self._sessions is not None and scope["path"].startswith((API, SEND)):
            problem = self._authenticate(scope, self._sessions)
        if problem is None:
            await self._app(scope, receive, send)
        else:
            await send_early_error(send, problem, path=scope["path"])

    def _origin_problem(self, scope: Scope) -> GatewayError | None:
        headers: Mapping[bytes, bytes] = dict(scope["headers"])
        origin, host = headers.get(b"origin"), headers.get(b"host", b"").lower()
        if origin is not None and (not host or origin.lower().partition(b"://")[2] != host):
            return ForbiddenOrigin(_ORIGIN)
        is_page = scope["method"] in _SAFE and not scope["path"].startswith((API, SEND))
        if not is_page and headers.get(b"sec-fetch-site", b"none") not in _OWN_SITES:
            return ForbiddenOrigin(_ORIGIN)
        if scope["method"] not in _SAFE and headers.get(HEADER) != b"1":
            return ForbiddenOrigin(f"{_ORIGIN} Send the header '{HEADER.decode()}: 1'.")
        return None

    def _authenticate(self, scope: Scope, sessions: Sessions) -> GatewayError | None:
        given = key_of(scope["headers"])
        session: Key | None = sessions.find(cookie_in(scope["headers"]))
        if session is None:
            return Unauthorized("Sign in to the console with an API key that has the scope `admin`.")
        state = scope.setdefault("state", {})
        if not scope["path"].startswith(SEND):
            state["key"] = session
            return None
        sender = sessions.keys().find(given)
        if sender is None:
            return Unauthorized("The playground sends requests under an API key: enter one with the scope `ask`.")
        if not sender.allows(KeyScope.SEND):
            return PermissionDenied(f"This API key lacks the scope `{KeyScope.SEND}`.")
        state["key"] = sender
        return None
