"""Which proxy a URL is called through, by the environment variables that OpenAI's clients and curl read: HTTP_PROXY,
HTTPS_PROXY, ALL_PROXY and NO_PROXY. Pure.

Targets in private locations are called directly, unless the policy says otherwise (`Target.uses_proxy`).
"""

import ipaddress
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from gateway.types import Target

_PORTS = {"http": 80, "https": 443}
_SOME_PROVIDER = "https://provider.invalid"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """A proxy. `problem` says why it cannot be used; its URL may contain credentials and is never logged."""

    url: str
    variable: str
    problem: str | None = None


def proxy_of(target: Target, environment: Mapping[str, str]) -> Proxy | None:
    """The proxy for a target; None: it is called directly."""
    return proxy_for(target.url, environment) if target.uses_proxy else None


def litellm_proxy(target: Target, environment: Mapping[str, str]) -> Proxy | None:
    """The proxy that litellm uses, which reads the environment itself; the host of a provider is not known."""
    return proxy_for(_SOME_PROVIDER if target.url.startswith("litellm:") else target.url, environment)


def proxy_for(url: str, environment: Mapping[str, str]) -> Proxy | None:
    """The proxy for a URL; None: it is called directly. Names in lower case take precedence."""
    parts = urlsplit(url)
    port = parts.port or _PORTS.get(parts.scheme)
    if port is None or _is_excluded(parts.hostname or "", port, environment):
        return None
    for name in (f"{parts.scheme}_proxy", "all_proxy"):
        variable, value = _variable(name, environment)
        if value:
            return _proxy(value, variable)
    return None


def _proxy(value: str, variable: str) -> Proxy:
    url = value if "://" in value else f"http://{value}"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in _PORTS and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    expected = "expected http://[user:password@]host[:port] or https://..."
    return Proxy(url=url, variable=variable, problem=None if usable else f"{variable}: {expected}")


def _variable(name: str, environment: Mapping[str, str]) -> tuple[str, str]:
    """A variable set to nothing counts as set: it disables the one in upper case."""
    if name == "http_proxy" and name not in environment and "REQUEST_METHOD" in environment:
        return name, ""  # a CGI program: HTTP_PROXY is the header `Proxy` of a request
    used = name if name in environment else name.upper()
    return used, environment.get(used, "").strip()


def _is_excluded(host: str, port: int, environment: Mapping[str, str]) -> bool:
    _, listed = _variable("no_proxy", environment)
    entries = listed.replace(",", " ").lower().split()
    return any(_matches(entry, host.lower().rstrip("."), port) for entry in entries)


def _matches(entry: str, host: str, port: int) -> bool:
    """`*`, a domain with its subdomains, an address or a network in CIDR notation; each with a port or without."""
    if entry == "*":
        return True
    entry = entry.rpartition("://")[2]
    with suppress(ValueError):  # not an address
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry.strip("[]"), strict=False)
    name, _, number = entry.rpartition(":")
    if name and number.isdigit() and (name.count(":") == 0 or name.endswith("]")):
        if int(number) != port:
            return False
        entry = name
    domain = entry.strip("[]").removeprefix("*").lstrip(".")
    return bool(domain) and (host == domain or host.endswith("." + domain))
