"""Protects a gateway without API keys, which listens on loopback only, from web pages in the user's own browser.

A page of any site can send requests to loopback. It cannot read the responses, but they cost money and reach private
data. Two ways are closed here:

* A request that needs no preflight (CORS): its body has one of three content types, or none at all.
* A host name of the attacker that resolves to loopback (DNS rebinding), which makes the page same-origin: the Host
  header then has that name.
"""

import ipaddress
from collections.abc import Iterable
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import ForbiddenHost, GatewayError, UnsupportedMediaType
from gateway.web.asgi_responses import send_early_error

# The content types that a page may send without a preflight (Fetch standard, "CORS-safelisted request-header").
_WITHOUT_PREFLIGHT: Final = frozenset({b"text/plain", b"application/x-www-form-urlencoded", b"multipart/form-data"})
_OF_BROWSERS: Final = frozenset({b"origin", b"sec-fetch-site"})
# No page can be served under these: `.localhost` is loopback (RFC 6761), `.internal` is reserved for private use.
_LOCAL_SUFFIXES: Final = (".localhost", ".internal")


class BrowserGuard:
    """ASGI middleware. `hosts` are further names under which the gateway is reached."""

    def __init__(self, app: ASGIApp, hosts: Iterable[str] = ()) -> None:
        self._app = app
        self._check = BrowserCheck(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward the request, or respond with 403 or 415."""
        problem = self._check.problem(scope) if scope["type"] == "http" else None
        if problem is None:
            await self._app(scope, receive, send)
        else:
            await send_early_error(send, problem, path=scope["path"])


class BrowserCheck:
    """What is wrong with a request; see the module and `BrowserGuard`."""

    def __init__(self, hosts: Iterable[str] = ()) -> None:
        self._hosts = frozenset(host.lower() for host in hosts)
        self._seen = dict[bytes, bool]()  # few different values arrive; bounded below

    def problem(self, scope: Scope) -> GatewayError | None:
        """Why the request is refused; None: it is not."""
        host, types, is_browser = b"", list[bytes](), False
        for name, value in scope["headers"]:
            if name == b"host":
                host = value
            elif name == b"content-type":
                types.append(value.partition(b";")[0].strip().lower())
            elif name in _OF_BROWSERS:
                is_browser = True
        if host and not self._is_local(host):
            return ForbiddenHost(
                f"The host {host.decode('latin-1')!r} is not this machine. Use localhost, name the host with"
                " --allowed-hosts, or require API keys."
            )
        if scope["method"] != "POST":
            return None
        if any(each in _WITHOUT_PREFLIGHT for each in types) or (is_browser and not any(types)):
            return UnsupportedMediaType("Send the body as 'content-type: application/json'.")
        return None

    def _is_local(self, host: bytes) -> bool:
        known = self._seen.get(host)
        if known is None:
            known = is_local_host(host.decode("latin-1"), self._hosts)
            if len(self._seen) < 64:
                self._seen[host] = known
        return known


def is_local_host(host: str, others: frozenset[str] = frozenset()) -> bool:
    """Whether a Host header, with or without a port, names this machine or one of `others`."""
    name = host.strip().lower()
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    elif name.count(":") == 1:
        name = name.partition(":")[0]
    name = name.removesuffix(".")
    if name == "localhost" or name in others or name.endswith(_LOCAL_SUFFIXES):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
