"""The console's page and its assets, which are built from `source/` and packaged. Nothing is loaded from elsewhere."""

import gzip
import secrets
from functools import cache
from importlib.resources import files
from typing import Final

from starlette.responses import Response

from gateway.errors import NotFound

_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
}
_NONCE: Final = "@NONCE@"
# The editor and the charts add style sheets of their own, which carry the page's nonce. Model output is set as text
# only: with Trusted Types, the browser refuses to parse any string as HTML.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'nonce-{nonce}'; img-src 'self' data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script';"
    " trusted-types 'none'"
)
_HEADERS: Final = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "x-frame-options": "DENY",
    "cache-control": "no-cache",
}


def page() -> Response:
    """The page; every response has a nonce of its own."""
    nonce = secrets.token_urlsafe(16)
    text = _asset("index.html").decode().replace(_NONCE, nonce)
    headers = {**_HEADERS, "content-security-policy": _POLICY.format(nonce=nonce), "cache-control": "no-store"}
    return Response(text, media_type=_TYPES["html"], headers=headers)


def asset(name: str, *, takes_gzip: bool) -> Response:
    """One file of the page. Raises NotFound."""
    media_type = _TYPES.get(name.rpartition(".")[2])
    if media_type is None or name == "index.html":
        raise NotFound(f"Unknown asset {name!r}.")
    headers = {**_HEADERS, "content-security-policy": "default-src 'none'", "vary": "accept-encoding"}
    if takes_gzip:
        return Response(_compressed(name), media_type=media_type, headers={**headers, "content-encoding": "gzip"})
    return Response(_asset(name), media_type=media_type, headers=headers)


@cache
def _compressed(name: str) -> bytes:
    return gzip.compress(_asset(name), mtime=0)


@cache
def _assets() -> dict[str, bytes]:
    folder = files(__package__).joinpath("static")
    return {each.name: each.read_bytes() for each in folder.iterdir() if each.is_file()}


def _asset(name: str) -> bytes:
    content = _assets().get(name)
    if content is None:
        raise NotFound(f"Unknown asset {name!r}.")
    return content
