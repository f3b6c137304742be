"""API keys on every route except a named few, and what each may do. Pure ASGI, so that streams pass unchanged."""

from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import PermissionDenied, Unauthorized
from gateway.web.asgi_responses import send_early_error
from twolane.process.api_keys import INVALID_KEY, Key, Keys, KeyScope, key_of
from twolane.process.http.request_cycle import NAMED

OPEN_PATHS = frozenset({"/live", "/health"})
DECISIONS = "/admin/decisions/"
_FOUND = "twolane.key"  # where a scope has the API key, or None, once it was looked up


def fairness_key(scope: Scope, keys: Keys | None) -> str:
    """Whose share of the gateway a request uses: its API key's, or its client address's if no keys are required. All
    requests with an unknown key have one share together."""
    if keys is not None:
        key = scope[_FOUND] = key_for(scope, keys)
        return key.name if key else ""
    return str(scope["client"][0]) if scope.get("client") else ""


def key_for(scope: Scope, keys: Keys) -> Key | None:
    """The API key of a request, which is looked up once; None: it has no valid one."""
    if _FOUND in scope:
        known: Key | None = scope[_FOUND]
        return known
    named: dict[bytes, bytes] | None = scope.get(NAMED)
    return keys.find(key_of(scope["headers"])) if named is None else keys.of_headers(named)


def send_scope(_path: str) -> KeyScope:
    """The scope of every path of the public port."""
    return KeyScope.SEND


def admin_scope(path: str) -> KeyScope | None:
    """The scope that an API key needs for a path of the admin port. Any key reads the decisions of its own requests."""
    if path == "/metrics":
        return KeyScope.METRICS
    return None if path.startswith(DECISIONS) else KeyScope.ADMIN


class Authenticate:
    """ASGI middleware: stores the API key (`Key`) in `scope["state"]["key"]`; refuses requests without a valid key, and
    those whose key lacks the scope of the path."""

    def __init__(
        self, app: ASGIApp, keys: Callable[[], Keys] | None, scope_of: Callable[[str], KeyScope | None] = send_scope
    ) -> None:
        """`keys` returns the current keys; None: no key is required. `scope_of` a path: None if any key will do."""
        self._app = app
        self._keys = keys
        self._scope_of = scope_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward the request, or respond with 401 or 403."""
        if self._keys is None or scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # WebSockets are not supported
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        key = key_for(scope, self._keys())
        if key is None:
            await send_early_error(send, Unauthorized(INVALID_KEY), path=scope["path"])
            return
        needed = self._scope_of(scope["path"])
        if needed is not None and not key.allows(needed):
            error = PermissionDenied(f"This API key lacks the scope `{needed}`.")
            await send_early_error(send, error, path=scope["path"])
            return
        scope.setdefault("state", {})["key"] = key
        await self._app(scope, receive, send)
