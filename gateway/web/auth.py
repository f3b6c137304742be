"""API keys on every route except a named few. Pure ASGI, so that streams pass unchanged."""

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import Unauthorized
from gateway.web.asgi_responses import send_error
from twolane.process.api_keys import Keys, bearer_key

OPEN_PATHS = frozenset({"/live", "/health"})


def fairness_key(scope: Scope, keys: Keys | None) -> str:
    """Whose share of the gateway a request uses: its API key's, or its client's where no keys are required. Requests
    with an unknown key share one."""
    if keys is not None:
        return keys.name_of(bearer_key(scope["headers"])) or ""
    return str(scope["client"][0]) if scope.get("client") else ""


class Authenticate:
    """ASGI middleware: stores the name of the API key in `scope["state"]["principal"]`; refuses requests without a
    valid key."""

    def __init__(self, app: ASGIApp, keys: Keys | None) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward the request or respond with 401."""
        if self._keys is None or scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # WebSockets are not supported
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        name = self._keys.name_of(bearer_key(scope["headers"]))
        if name is None:
            await send_error(send, Unauthorized("Missing or invalid API key; send 'Authorization: Bearer KEY'."))
            return
        scope.setdefault("state", {})["principal"] = name
        await self._app(scope, receive, send)
