"""The `targets` of a policy file: named places that can answer.

Knows the words of a target; where they stand in the file is the section's business.
"""

import re
from dataclasses import replace
from importlib.util import find_spec
from typing import Final
from urllib.parse import urlsplit

from gateway.enums import Capability, Grade, Kind, Location
from gateway.policy_files.dns import Lookup
from gateway.policy_files.objectives import check_name, read_retry, read_slo
from gateway.policy_files.section import Section, suggestion
from gateway.policy_types import Slo
from gateway.routing.engine_profiles import ENGINES, capabilities_of
from gateway.routing.policy import AUTO
from gateway.types import Capabilities, Target

_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KINDS: Final = (Kind.WORKER, Kind.OPENAI, Kind.LITELLM)
_INSTALL: Final = "pip install --require-hashes --requirement requirements-providers.txt"
# What a worker takes in the object `diffusion` of a request, and between which bounds.
_STEPS: Final = {"steps": (1, 4096), "canvas_length": (1, 4096)}
_SHARES: Final = {"entropy_bound": (0.0, 1e6), "t_min": (0.0, 1e3), "t_max": (0.0, 1e3), "anchor": (0.0, 1.0)}
_LATER: Final = {"limits": "limiting a target (but for max_in_flight)"}


def read_targets(top: Section, resolve: Lookup) -> tuple[dict[str, Target], dict[str, Slo]]:
    """All targets by name, and what they promise by themselves."""
    section = top.section("targets")
    if section is None or not section.node:
        raise top.fault("a policy needs at least one target", "targets")
    targets: dict[str, Target] = {}
    slos: dict[str, Slo] = {}
    for name in section.node:
        check_name(section, name, reserved=AUTO)
        entry = section.within(section.node[name], name)
        targets[name] = _target(entry, name, resolve)
        slo = read_slo(entry)
        if slo is not None:
            slos[name] = slo
        entry.refuse(_LATER)
        entry.close()
    return targets, slos


def _target(entry: Section, name: str, resolve: Lookup) -> Target:
    kind = _kind(entry)
    key_env = entry.text("key_env", None)
    if key_env is not None and not _VARIABLE.fullmatch(key_env):
        raise entry.fault("expected the name of an environment variable, never a key itself", "key_env")
    urls = _urls(entry, kind)
    target = Target(
        name=name,
        kind=kind,
        url=urls[0],
        model=entry.text("model"),
        location=entry.word("location", Location),
        max_in_flight=entry.integer("max_in_flight", None, least=1, most=100_000),
        capabilities=None if kind is Kind.WORKER else _capabilities(entry, kind),
        key_env=key_env,
        retry=read_retry(entry),
        diffusion=_diffusion(entry, kind),
    )
    if entry.text("resolve", None) is not None:
        return replace(target, endpoints=_found(target, entry, resolve))
    return target if len(urls) == 1 else replace(target, endpoints=_servers(target, urls))


def _found(target: Target, entry: Section, resolve: Lookup) -> tuple[Target, ...]:
    """A server for each address behind the name, called by its address: numbers would move when one leaves."""
    if entry.text("resolve") != "dns":
        raise entry.fault("a name is resolved by `dns`", "resolve")
    parts = urlsplit(target.url)
    if parts.scheme != "http" or entry.has("urls"):
        raise entry.fault("only one `url` with http is resolved: behind https the name is checked", "resolve")
    port = parts.port or 80
    hosts = [f"[{found}]" if ":" in found else found for found in resolve(parts.hostname or "", port)]
    places = [f"{host}:{port}" for host in hosts]
    return tuple(
        replace(target, name=f"{target.name}/{place}", url=f"http://{place}{parts.path}", pool=target.name)
        for place in places
    )


def _servers(target: Target, urls: tuple[str, ...]) -> tuple[Target, ...]:
    """Numbered from 1; a policy cannot name them, because no name has a slash."""
    return tuple(
        replace(target, name=f"{target.name}/{number}", url=url, pool=target.name) for number, url in enumerate(urls, 1)
    )


def _kind(entry: Section) -> Kind:
    kind = entry.text("kind")
    if kind not in _KINDS:
        raise entry.fault(f"unknown kind {kind!r}{suggestion(kind, _KINDS)}", "kind")
    if kind == Kind.LITELLM and find_spec("litellm") is None:  # looks for it without importing it
        raise entry.fault(f"kind litellm needs the extra `providers`: {_INSTALL}", "kind")
    return Kind(kind)


def _urls(entry: Section, kind: Kind) -> tuple[str, ...]:
    """One `url`, or several `urls` of servers that are alike; of a provider, its model may stand for the address."""
    if not entry.has("urls"):
        if kind is Kind.LITELLM and not entry.has("url"):
            return (f"litellm:{entry.text('model')}",)
        return (_base_url(entry, entry.text("url"), kind, "url"),)
    if entry.has("url"):
        raise entry.fault("give either `url` or `urls`", "urls")
    urls = tuple(_base_url(entry, url, kind, "urls", item) for item, url in enumerate(entry.names("urls")))
    if not urls:
        raise entry.fault("expected at least one url", "urls")
    for item, url in enumerate(urls):
        if url in urls[:item]:
            raise entry.fault(f"{url!r} is named twice", "urls", item)
    return urls


def _base_url(entry: Section, url: str, kind: Kind, key: str, item: int | None = None) -> str:
    """Without the /v1 that every path of ours begins with; litellm adds what it likes. Never with credentials."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - reading it checks it
    except ValueError as wrong:
        raise entry.fault(f"not a URL: {wrong}", key, item) from wrong
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise entry.fault("expected http://host[:port][/path] or https://...", key, item)
    if parts.username is not None or parts.query or parts.fragment:
        raise entry.fault("a base URL has no credentials, query or fragment", key, item)
    bare = url.rstrip("/")
    return bare if kind is Kind.LITELLM else bare.removesuffix("/v1").rstrip("/")


def _diffusion(entry: Section, kind: Kind) -> tuple[tuple[str, float], ...]:
    """What `twolane tune` found, for instance. A request that says otherwise has its way."""
    wished = entry.section("diffusion")
    if wished is None:
        return ()
    if kind is not Kind.WORKER:
        raise entry.fault("only a target of kind worker has steps and canvases", "diffusion")
    whole = {name: wished.integer(name, None, least=low, most=high) for name, (low, high) in _STEPS.items()}
    parts = {name: wished.number(name, None, least=low, most=high) for name, (low, high) in _SHARES.items()}
    wished.close()
    return tuple((name, value) for name, value in {**whole, **parts}.items() if value is not None)


def _capabilities(entry: Section, kind: Kind) -> Capabilities:
    """Other servers do not publish what they can do: the policy says it, or names the engine."""
    words = entry.words("capabilities", Capability, None)
    engine = entry.text("engine", None)
    if (words is None) == (engine is None):
        raise entry.fault(
            f"a target of kind {kind} needs either `engine` or `capabilities`", "engine" if engine else None
        )
    if engine is None:
        return capabilities_of(frozenset(words), json_schema=Grade.BEST_EFFORT, tools=Grade.BEST_EFFORT)
    if engine not in ENGINES:
        raise entry.fault(f"unknown engine {engine!r}{suggestion(engine, ENGINES)}", "engine")
    return ENGINES[engine]
