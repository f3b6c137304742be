"""Cross-origin requests of browsers (CORS), for origins that a setting names.

Preflight requests are answered without an API key, as browsers send none with them. Credentials in the sense of CORS
(cookies) are never allowed: keys are sent in a header, so any origin may be allowed without risk to other sites.
"""

import re
from collections.abc import Iterable
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import ForbiddenOrigin
from gateway.web.asgi_responses import send_early_error
from gateway.web.headers import KNOWN_EARLY, MEANINGS
from twolane.process.http.request_cycle import Headers

ANY: Final = "*"
_METHODS: Final = b"GET, HEAD, POST, DELETE, OPTIONS"
_MAX_AGE_S: Final = b"7200"  # the longest that Chrome respects
_EXPOSED: Final = b", ".join(sorted({*MEANINGS, *KNOWN_EARLY}))
_HEADER_NAMES: Final = re.compile(rb"[\w!#$%&'*+.^`|~, -]{1,4096}")


class Origins:
    """The allowed origins."""

    def __init__(self, origins: Iterable[str]) -> None:
        self._origins = frozenset(origin.encode() for origin in origins)
        self._any = ANY.encode() in self._origins

    def allow(self, origin: bytes) -> bool:
        """Whether pages of this origin may read responses."""
        return self._any or origin.lower() in self._origins

    def headers(self, request_headers: Headers) -> Headers:
        """The headers that every response needs, by the headers of its request, as far as they have arrived."""
        origin = next((value for name, value in request_headers if name == b"origin"), None)
        if origin is None:
            return ()
        if not self.allow(origin):
            return ((b"vary", b"Origin"),)
        exposed = (b"access-control-expose-headers", _EXPOSED)
        if self._any:
            return ((b"access-control-allow-origin", b"*"), exposed)
        return ((b"access-control-allow-origin", origin), (b"vary", b"Origin"), exposed)


class Preflight:
    """ASGI middleware: answers preflight requests. The connection adds `Origins.headers` to every response, so that a
    page can also read errors of the listener and of an overloaded gateway."""

    def __init__(self, app: ASGIApp, origins: Origins) -> None:
        self._app = app
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a preflight request; pass any other request on."""
        if scope["type"] == "http" and scope["method"] == "OPTIONS":
            headers = dict(scope["headers"])
            if b"origin" in headers and b"access-control-request-method" in headers:
                await _answer_preflight(send, headers, is_allowed=self._origins.allow(headers[b"origin"]))
                return
        await self._app(scope, receive, send)


async def _answer_preflight(send: Send, headers: dict[bytes, bytes], *, is_allowed: bool) -> None:
    if not is_allowed:
        await send_early_error(send, ForbiddenOrigin("This origin is not allowed; see --cors-origins."))
        return
    answer = [(b"access-control-allow-methods", _METHODS), (b"access-control-max-age", _MAX_AGE_S)]
    requested = headers.get(b"access-control-request-headers", b"")
    if _HEADER_NAMES.fullmatch(requested):
        answer.append((b"access-control-allow-headers", requested))
    if headers.get(b"access-control-request-private-network") == b"true":
        answer.append((b"access-control-allow-private-network", b"true"))
    await send({"type": "http.response.start", "status": 204, "headers": answer})
    await send({"type": "http.response.body", "body": b""})
