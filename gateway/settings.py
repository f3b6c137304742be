"""Settings of the gateway: `TWOLANE_*` variables and the flags of `twolane serve`."""

# ruff: noqa: RUF009 - `setting` makes a dataclass field

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from twolane.process.errors import ConfigurationError
from twolane.process.http.limits import KEEP_ALIVE_S
from twolane.process.setting_kinds import (
    SWITCH,
    Kind,
    label,
    names,
    one_of,
    origins,
    path,
    seconds,
    text,
    url_template,
    whole,
)
from twolane.process.settings import SettingsSchema, setting
from twolane.process.sockets import require_keys

PREFIX: Final = "TWOLANE_"


def _descriptors(given: str) -> tuple[int, ...]:
    numbers = tuple(int(part) for part in given.split(",")) if given else ()
    if len(numbers) not in (0, 2):
        raise ValueError("not two file descriptors")
    return numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Raises ConfigurationError for incompatible values."""

    host: str = setting(
        text("HOST"), "address of the public port; non-loopback addresses require a keys file", default="127.0.0.1"
    )
    port: int = setting(whole(0, 65535), "public port; 0 selects a free one", default=8080)
    admin_host: str = setting(
        text("HOST"), "address of the admin port; non-loopback addresses require a keys file", default="127.0.0.1"
    )
    admin_port: int = setting(whole(0, 65535), "port of metrics and administration; 0 selects a free one", default=8090)
    workers: int = setting(
        whole(1, 256),
        "processes that share the two ports; each keeps its own lane state unless --redis-url is set",
        default=1,
    )
    handed_down: tuple[int, ...] = setting(
        Kind(metavar="N,N", parse=_descriptors), "sockets of the parent process", default=(), is_internal=True
    )
    replica_name: str | None = setting(
        label("NAME"),
        "name of this replica in x-twolane-gateway, the decision log and traces (falls back to HOSTNAME, which"
        " containers and pods have); empty: none",
        default=None,
        fallback="HOSTNAME",
    )
    policy: Path = setting(
        path(),
        "policy file; if the default file does not exist, the packaged policy",
        default=Path("policies/default.yaml"),
    )
    policy_watch_s: float = setting(seconds(), "interval of checks for changes of the policy file", default=0.5)
    keys_file: Path | None = setting(
        path(), "API keys, one `name sha256:<hex>` per line; without it no key is required", default=None
    )
    decision_log: Path | None = setting(path(), "file for one JSON line per request", default=None)
    decision_log_bytes: int = setting(
        whole(0, 1 << 40), "rotate the decision log to FILE.1 above this size; 0 disables rotation", default=100_000_000
    )
    decision_log_files: int = setting(whole(1, 1000), "rotated decision logs to keep", default=5)
    decision_log_prompts: bool = setting(
        SWITCH,
        "also log the texts of requests, for `twolane classifier train --log`; never those of private requests",
        default=False,
    )
    max_body_bytes: int = setting(whole(1024, 1 << 30), "maximum size of a request body", default=4_194_304)
    max_inflight_bytes: int = setting(
        whole(1024, 1 << 40),
        "request bodies and buffered answers held in memory at a time; what does not fit receives 503",
        default=67_108_864,
    )
    head_timeout_s: float = setting(seconds(), "time for a client to send the headers of a request", default=20.0)
    body_timeout_s: float = setting(
        seconds(), "time for a client to send a request body, plus 1 s for each 16 KiB", default=20.0
    )
    keep_alive_s: float = setting(seconds(), "time that an idle client connection is kept open", default=KEEP_ALIVE_S)
    write_timeout_s: float = setting(
        seconds(), "disconnect a client that does not read its response for this time", default=60.0
    )
    cors_origins: tuple[str, ...] = setting(
        origins(), "origins of web pages that may send requests, or * for any; without it browsers refuse", default=()
    )
    allowed_hosts: tuple[str, ...] = setting(
        names("HOST"), "further values of the Host header that a gateway without a keys file accepts", default=()
    )
    recent_decisions: int = setting(
        whole(1, 1_000_000), "decisions kept for /admin/decisions/ID and for the console", default=1000
    )
    console: str = setting(one_of("on", "off"), "serve the console at /console on the admin port", default="on")
    console_secret: str | None = setting(
        text("TEXT"),
        "secret that signs sessions of the console; without it they end when the gateway restarts",
        default=None,
        is_secret=True,
    )
    trace_url: str | None = setting(
        url_template("trace"),
        "address of a trace in your tracing system, with {trace} for its ID; the console links to it",
        default=None,
    )
    http_client: str = setting(
        one_of("pooled", "aiohttp"),
        "client for targets at http:// URLs without a proxy: the gateway's own, which costs less, or aiohttp",
        default="pooled",
    )
    connect_s: float = setting(seconds(), "connect timeout of targets", default=2.0)
    heartbeat_s: float = setting(
        seconds(may_be_zero=True),
        "send a comment on a stream that has been silent for this long; 0 sends none",
        default=15.0,
    )
    health_timeout_s: float = setting(
        seconds(), "timeout of a worker's health check; two timeouts in a row make it unreachable", default=1.0
    )
    redis_url: str | None = setting(
        text("URL"),
        "Redis for shared state: one server, redis+sentinel:// or redis+cluster://, with TLS as rediss (falls back to"
        " REDIS_URL)",
        default=None,
        fallback="REDIS_URL",
        is_secret=True,
    )
    redis_ca_file: Path | None = setting(
        path(), "certificates that Redis is verified by, in PEM format; by default the system's", default=None
    )
    redis_namespace: str = setting(
        text("NAME"), "replicas with the same namespace share state in Redis", default="twolane"
    )
    responses_bytes: int = setting(
        whole(0, 1 << 40), "responses with `store: true` that are kept, in bytes; 0 keeps none", default=0
    )
    responses_store: str = setting(
        one_of("memory", "redis"),
        "where responses are kept: in memory, which requires a single process, or in the Redis of --redis-url",
        default="memory",
    )
    responses_s: float = setting(seconds(), "time that a response is kept", default=3600.0)
    drain_s: float = setting(seconds(), "time for running requests to finish after SIGTERM", default=310.0)
    log: str = setting(one_of("plain", "json"), "log format on stderr", default="plain")

    def __post_init__(self) -> None:
        if self.max_inflight_bytes < self.max_body_bytes:
            raise ConfigurationError(
                f"{SCHEMA.flag('max_inflight_bytes')} {self.max_inflight_bytes}: must be at least"
                f" {SCHEMA.flag('max_body_bytes')}, {self.max_body_bytes}"
            )
        self._check_store()
        for name in ("host", "admin_host"):
            if self.keys_file is None:
                flag, variable = SCHEMA.flag(name), SCHEMA.variable(name)
                require_keys(host=getattr(self, name), flag=flag, variable=variable, prefix=PREFIX)

    def _check_store(self) -> None:
        flag = SCHEMA.flag
        if self.redis_ca_file is not None and self.redis_url is None:
            raise ConfigurationError(f"{flag('redis_ca_file')} requires {flag('redis_url')}")
        if self.responses_store == "redis" and self.redis_url is None:
            raise ConfigurationError(f"{flag('responses_store')} redis requires {flag('redis_url')}")
        if self.responses_bytes and self.workers > 1 and self.responses_store == "memory":
            raise ConfigurationError(
                f"{flag('responses_bytes')} requires {flag('workers')} 1 or {flag('responses_store')} redis:"
                " each process would keep its own"
            )


# Policies may name variables of their own that begin with TWOLANE_, so only misspelt ones are refused.
SCHEMA: Final = SettingsSchema(
    record=Settings,
    prefix=PREFIX,
    retired={"TWOLANE_IDLE_S": "`idle_s` of a target in the policy"},
    shares_prefix_with=("TWOLANE_WORKER_",),
    refuse_every_unknown=False,
)


def read_settings(environment: Mapping[str, str], flags: Mapping[str, str]) -> Settings:
    """From the environment; `flags` (by field name) take precedence. Raises ConfigurationError."""
    return SCHEMA.read(environment, flags)
