"""Addresses of Redis: one server, a master that sentinels name, or a cluster; with ACL users and TLS. Pure, except that
the file of certificates is read once, so that a wrong one is found at start.

    redis://[USER:PASSWORD@]HOST[:PORT][/DB]                            unix://[USER:PASSWORD@]/PATH
    redis+sentinel://[USER:PASSWORD@]HOST[:PORT],...,HOST[:PORT]/SERVICE[/DB]
    redis+cluster://[USER:PASSWORD@]HOST[:PORT],...,HOST[:PORT]

`rediss` instead of `redis` uses TLS. Errors never repeat a URL, which may contain a password.
"""

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, parse_qs, urlsplit

from twolane.process.errors import ConfigurationError

_FLAG: Final = "--redis-url (TWOLANE_REDIS_URL)"
_CA_FLAG: Final = "--redis-ca-file (TWOLANE_REDIS_CA_FILE)"
_HOST: Final = re.compile(r"(?:\[([0-9A-Fa-f:.%]+)\]|([^:\[\]\s]+))(?::(\d{1,5}))?")
# Of redis-py's options, those that make sense here. Timeouts and retries are the gateway's own.
_OPTIONS: Final = (
    *("db", "client_name", "protocol", "socket_keepalive", "health_check_interval", "max_connections"),
    *("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname", "ssl_min_version"),
)
_OF_SENTINELS: Final = ("sentinel_username", "sentinel_password")


class Topology(StrEnum):
    """How the servers at an address belong together."""

    SERVER = "server"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


_PORTS: Final = {Topology.SERVER: 6379, Topology.SENTINEL: 26379, Topology.CLUSTER: 6379}
_SCHEMES: Final = {
    "redis": Topology.SERVER,
    "rediss": Topology.SERVER,
    "unix": Topology.SERVER,
    "redis+sentinel": Topology.SENTINEL,
    "rediss+sentinel": Topology.SENTINEL,
    "redis+cluster": Topology.CLUSTER,
    "rediss+cluster": Topology.CLUSTER,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisAddress:
    """`hosts` are the sentinels, or nodes of the cluster to begin with. `options` and `sentinel_options` are keyword
    arguments of redis-py's connections."""

    topology: Topology
    hosts: tuple[tuple[str, int], ...] = ()
    service: str = ""  # that the sentinels watch
    is_tls: bool = False
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    sentinel_options: Mapping[str, Any] = field(default_factory=dict, repr=False)


def read_address(url: str, ca_file: Path | None = None) -> RedisAddress:
    """The address that a URL names. `ca_file` are the certificates that servers are verified by, instead of the
    system's. Raises ConfigurationError."""
    try:
        parts = urlsplit(url)
        parts.hostname  # noqa: B018 - the property validates brackets
    except ValueError:
        raise _error("not a URL") from None
    topology = _SCHEMES.get(parts.scheme)
    if topology is None:
        raise _error(f"unknown scheme; allowed: {', '.join(f'{scheme}://' for scheme in _SCHEMES)}")
    is_tls = parts.scheme.startswith("rediss")
    given = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
    allowed = _OPTIONS + (_OF_SENTINELS if topology is Topology.SENTINEL else ())
    if unknown := sorted(given.keys() - set(allowed)):
        raise _error(f"unknown option {unknown[0]!r}; allowed: {', '.join(allowed)}")
    hosts = () if parts.scheme == "unix" else _hosts(parts, topology)
    service, path = _service(parts) if topology is Topology.SENTINEL else ("", parts.path)
    options = _options(parts, path, hosts[0] if topology is Topology.SERVER and hosts else None)
    if topology is Topology.CLUSTER and (options.pop("db", 0) or parts.path.strip("/")):
        raise _error("a cluster has no databases: leave out the path and `db`")
    of_sentinels = {name.removeprefix("sentinel_"): options.pop(name) for name in _OF_SENTINELS if name in options}
    of_tls = _tls(options, ca_file, is_tls=is_tls)
    return RedisAddress(
        topology=topology,
        hosts=hosts,
        service=service,
        is_tls=is_tls,
        options=options | of_tls,
        sentinel_options=of_sentinels | {name: options[name] for name in options if name.startswith("ssl_")} | of_tls,
    )


def _hosts(parts: SplitResult, topology: Topology) -> tuple[tuple[str, int], ...]:
    listed = parts.netloc.rpartition("@")[2].split(",")
    if topology is Topology.SERVER and len(listed) > 1:
        raise _error("several hosts need redis+sentinel:// or redis+cluster://")
    found = []
    for each in listed:
        match = _HOST.fullmatch(each.strip() or ("localhost" if topology is Topology.SERVER else ""))
        if match is None or not 0 < int(match[3] or 1) < 65536:
            raise _error("expected HOST or HOST:PORT, several with commas")
        found.append((match[1] or match[2], int(match[3] or _PORTS[topology])))
    return tuple(found)


def _service(parts: SplitResult) -> tuple[str, str]:
    """The name of the service, and the rest of the path."""
    service, _, rest = parts.path.removeprefix("/").partition("/")
    if not service:
        raise _error("expected the service that the sentinels watch: redis+sentinel://HOST:PORT,.../SERVICE")
    return service, f"/{rest}"


def _options(parts: SplitResult, path: str, host: tuple[str, int] | None) -> dict[str, Any]:
    """As redis-py reads them. It ignores a path that is no number."""
    from redis.asyncio.connection import parse_url

    base = parts.scheme.partition("+")[0]
    user = parts.netloc.rpartition("@")[0]
    if base != "unix" and not re.fullmatch(r"/?[0-9]*", path):
        raise _error("expected the number of a database as path")
    try:
        options: dict[str, Any] = dict(parse_url(f"{base}://{user}{'@' * bool(user)}x{path}?{parts.query}"))
    except ValueError as fault:
        raise _error(str(fault)) from None  # names the option, never a password
    options.pop("connection_class", None)
    options.pop("host", None)
    return options if host is None else options | {"host": host[0], "port": host[1]}


def _tls(options: Mapping[str, Any], ca_file: Path | None, *, is_tls: bool) -> dict[str, Any]:
    if not is_tls and (of_tls := [name for name in options if name.startswith("ssl_")]):
        raise _error(f"the option {of_tls[0]!r} requires a URL that begins with rediss")
    if ca_file is None:
        return {}
    if not is_tls:
        raise ConfigurationError(f"{_CA_FLAG} requires a {_FLAG} that begins with rediss")
    if "ssl_ca_certs" in options:
        raise ConfigurationError(f"set either {_CA_FLAG} or `ssl_ca_certs` in {_FLAG}, not both")
    try:
        ssl.create_default_context(cafile=str(ca_file))
    except (OSError, ssl.SSLError) as fault:
        cause = "no certificates in PEM format" if isinstance(fault, ssl.SSLError) else fault.strerror
        raise ConfigurationError(f"{_CA_FLAG} {ca_file}: {cause}") from None
    return {"ssl_ca_certs": str(ca_file)}


def _error(cause: str) -> ConfigurationError:
    return ConfigurationError(f"{_FLAG}: {cause}")
