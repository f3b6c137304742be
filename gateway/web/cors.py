"""Cross-origin requests of browsers (CORS), for origins that a setting names.

Preflight requests are answered without an API key, as browsers send none with them. Credentials in the sense of CORS
(cookies) are never allowed: keys are sent in a header, so any origin may be allowed without risk to other sites.
"""

import re
from collections.abc import Iterable
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import ForbiddenOrigin
from gateway.web.asgi_responses import send_error
from gateway.web.headers import MEANINGS

ANY: Final = "*"
_METHODS: Final = b"GET, HEAD, POST, OPTIONS"
_MAX_AGE_S: Final = b"7200"  # the longest that Chrome respects
_EXPOSED: Final = b", ".join((*MEANINGS, b"retry-after"))
_HEADER_NAMES: Final = re.compile(rb"[\w!#$%&'*+.^`|~, -]{1,4096}")


class Cors:
    """ASGI middleware: answers preflight requests, and adds headers to the responses of allowed origins."""

    def __init__(self, app: ASGIApp, origins: Iterable[str]) -> None:
        self._app = app
        self._origins = frozenset(origin.encode() for origin in origins)
        self._any = ANY.encode() in self._origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a preflight request; pass any other request on."""
        headers = dict(scope["headers"]) if scope["type"] == "http" else {}
        origin = headers.get(b"origin")
        if origin is None:
            await self._app(scope, receive, send)
            return
        is_allowed = self._any or origin.lower() in self._origins
        added = self._added(origin) if is_allowed else [(b"vary", b"Origin")]
        if scope["method"] == "OPTIONS" and b"access-control-request-method" in headers:
            await _answer_preflight(send, headers, added, is_allowed=is_allowed)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *added]}
            await send(message)

        await self._app(scope, receive, send_with_headers)

    def _added(self, origin: bytes) -> list[tuple[bytes, bytes]]:
        allowed = (
            [(b"access-control-allow-origin", b"*")]
            if self._any
            else [(b"access-control-allow-origin", origin), (b"vary", b"Origin")]
        )
        return [*allowed, (b"access-control-expose-headers", _EXPOSED)]


async def _answer_preflight(
    send: Send, headers: dict[bytes, bytes], added: list[tuple[bytes, bytes]], *, is_allowed: bool
) -> None:
    if not is_allowed:
        await send_error(send, ForbiddenOrigin("This origin is not allowed; see --cors-origins."), added)
        return
    answer = [*added, (b"access-control-allow-methods", _METHODS), (b"access-control-max-age", _MAX_AGE_S)]
    requested = headers.get(b"access-control-request-headers", b"")
    if _HEADER_NAMES.fullmatch(requested):
        answer.append((b"access-control-allow-headers", requested))
    if headers.get(b"access-control-request-private-network") == b"true":
        answer.append((b"access-control-allow-private-network", b"true"))
    await send({"type": "http.response.start", "status": 204, "headers": answer})
    await send({"type": "http.response.body", "body": b""})
