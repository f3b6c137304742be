"""The `targets` section of a policy: the servers that requests can be routed to."""

import re
from contextlib import suppress
from dataclasses import replace
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import SplitResult, urlsplit

from gateway.enums import Capability, Grade, Kind
from gateway.parameters import HANDLED, PARAMETERS
from gateway.policy_files import renamed_keys
from gateway.policy_files.decoding import read_model
from gateway.policy_files.dns import Lookup
from gateway.policy_files.gates import read_target_gate
from gateway.policy_files.locations import read_location
from gateway.policy_files.objectives import check_name, read_queue, read_retry, read_slo
from gateway.policy_files.section import Section, suggestion
from gateway.policy_types import DEFAULT_IDLE_S, Price, Slo
from gateway.routing.engine_profiles import DEFAULT_IGNORE, ENGINES, capabilities_of, with_fields
from gateway.routing.policy import AUTO
from gateway.types import Capabilities, Target
from twolane.process.locations import IN_CLUSTER

_MAX_PRICE: Final = 1e6  # dollars per million tokens
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KINDS: Final = (Kind.WORKER, Kind.OPENAI, Kind.LITELLM)
_CHAT: Final = "/chat/completions"
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
# Headers of the connection, of the body, and those that the gateway sends itself.
_OWN_HEADERS: Final = frozenset(
    "connection keep-alive proxy-connection proxy-authorization te trailer transfer-encoding upgrade expect host"
    " content-length content-type content-encoding accept-encoding x-request-id traceparent tracestate"
    " x-twolane-deadline-ms".split()
)
_MALICIOUS: Final = frozenset({"1.82.7", "1.82.8"})  # of litellm: they stole credentials (PYSEC-2026-2)
_INSTALL: Final = "pip install --require-hashes --requirement requirements-providers.txt"
# The decoding parameters of a request's `diffusion` object, with their bounds.
_INTEGERS: Final = {"steps": (1, 4096), "canvas_length": (1, 4096)}
_UNDER_LOAD: Final = {"entropy_bound": (0.0, 1e6), "confidence_threshold": (0.0, 1e6)}
_NUMBERS: Final = {**_UNDER_LOAD, "t_min": (0.0, 1e3), "t_max": (0.0, 1e3), "anchor": (0.0, 1.0)}
_MAX_IDLE_S: Final = 3600
_UNSUPPORTED: Final = {"limits": "limits per target (other than max_in_flight)"}


def read_targets(
    top: Section, resolve: Lookup, private_locations: frozenset[str]
) -> tuple[dict[str, Target], dict[str, Slo]]:
    """All targets by name, and the SLOs that targets declare themselves."""
    section = top.section("targets")
    if section is None or not section.node:
        raise top.error("at least one target is required", "targets")
    targets: dict[str, Target] = {}
    slos: dict[str, Slo] = {}
    for name in section.node:
        check_name(section, name, reserved=AUTO)
        entry = section.child(section.node[name], name)
        targets[name] = _target(entry, name, resolve, private_locations)
        slo = read_slo(entry)
        if slo is not None:
            slos[name] = slo
        entry.reject_unsupported(_UNSUPPORTED)
        entry.close()
    return targets, slos


def _target(entry: Section, name: str, resolve: Lookup, private_locations: frozenset[str]) -> Target:
    entry.reject_renamed(renamed_keys.TARGET)
    kind = _kind(entry)
    key_env, key_file = _key_source(entry)
    urls = _urls(entry, kind)
    location = read_location(entry)
    min_confidence, serves_surest = read_target_gate(entry)
    target = Target(
        name=name,
        kind=kind,
        url=urls[0].base,
        path=urls[0].path,
        model=read_model(entry, kind),
        location=location,
        # A proxy is elsewhere, and sees what it passes on.
        uses_proxy=entry.boolean("proxy", location != IN_CLUSTER and location not in private_locations),
        max_in_flight=entry.integer("max_in_flight", None, minimum=1, maximum=100_000),
        queue=read_queue(entry),
        idle_s=entry.number("idle_s", DEFAULT_IDLE_S, minimum=0.1, maximum=_MAX_IDLE_S),
        capabilities=None if kind is Kind.WORKER else _capabilities(entry, kind),
        engine=entry.node.get("engine"),
        key_env=key_env,
        key_file=key_file,
        headers=_headers(entry, has_key=key_env is not None or key_file is not None),
        retry_after_max_s=entry.number("retry_after_max_s", 300.0, minimum=0, maximum=86_400),
        retry=read_retry(entry),
        diffusion=_diffusion(entry, kind),
        ignore=_ignore(entry, frozenset() if kind is Kind.WORKER else _parameters(entry, "takes")),
        price=_price(entry),
        min_confidence=min_confidence,
        serves_surest=serves_surest,
    )
    if entry.string("resolve", None) is not None:
        return replace(target, endpoints=_discovered(target, entry, resolve))
    return target if len(urls) == 1 else replace(target, endpoints=_numbered(target, urls))


def _key_source(entry: Section) -> tuple[str | None, str | None]:
    """The variable or the file that holds the key. A relative path starts at the folder of the policy."""
    key_env, key_file = entry.string("key_env", None), entry.string("key_file", None)
    if key_env is not None and not _VARIABLE.fullmatch(key_env):
        raise entry.error("expected the name of an environment variable, not the key itself", "key_env")
    if key_env is not None and key_file is not None:
        raise entry.error("set either `key_env` or `key_file`, not both", "key_file")
    return key_env, None if key_file is None else str(Path(entry.file).parent / Path(key_file).expanduser())


def _headers(entry: Section, *, has_key: bool) -> tuple[tuple[str, str], ...]:
    """Static headers. Errors name the header and never repeat its value, which may be a credential."""
    section = entry.section("headers")
    if section is None:
        return ()
    headers: list[tuple[str, str]] = []
    for name in map(str, section.node):
        value = section.string(name)
        lowered = name.lower()
        if not _HEADER_NAME.fullmatch(name):
            raise section.error("expected the name of an HTTP header", name)
        if lowered in _OWN_HEADERS or lowered in (known.lower() for known, _ in headers):
            raise section.error("this header is set by the gateway, or is set twice", name)
        if lowered == "authorization" and has_key:
            raise section.error("set either this header or a key, not both", name)
        if not value.isascii() or not value.isprintable():
            raise section.error("the value has a character that cannot be sent in an HTTP header", name)
        headers.append((name, value.strip()))
    return tuple(headers)


def _discovered(target: Target, entry: Section, resolve: Lookup) -> tuple[Target, ...]:
    """One endpoint per address behind the name, named after its address: numbers would shift when one leaves."""
    if entry.string("resolve") != "dns":
        raise entry.error("unknown resolver; allowed: dns", "resolve")
    parts = urlsplit(target.url)
    if parts.scheme != "http" or entry.has("urls"):
        raise entry.error(
            "`resolve: dns` requires exactly one `url` with the scheme http (https verifies the host name)", "resolve"
        )
    port = parts.port or 80
    hosts = [f"[{found}]" if ":" in found else found for found in resolve(parts.hostname or "", port)]
    addresses = [f"{host}:{port}" for host in hosts]
    return tuple(
        replace(target, name=f"{target.name}/{address}", url=f"http://{address}{parts.path}", pool=target.name)
        for address in addresses
    )


def _numbered(target: Target, urls: "tuple[_Url, ...]") -> tuple[Target, ...]:
    """Endpoints numbered from 1. A policy cannot refer to them, because names contain no slash."""
    return tuple(
        replace(target, name=f"{target.name}/{number}", url=url.base, path=url.path, pool=target.name)
        for number, url in enumerate(urls, 1)
    )


def _kind(entry: Section) -> Kind:
    kind = entry.string("kind")
    if kind not in _KINDS:
        raise entry.error(f"unknown kind {kind!r}{suggestion(kind, _KINDS)}", "kind")
    if kind == Kind.LITELLM and (problem := _litellm_problem()) is not None:
        raise entry.error(f"{problem}: {_INSTALL}", "kind")
    return Kind(kind)


def _litellm_problem() -> str | None:
    """Why litellm cannot be used. It is looked up without importing it."""
    if find_spec("litellm") is None:
        return "kind litellm requires the extra `providers`"
    with suppress(PackageNotFoundError):
        if (found := version("litellm")) in _MALICIOUS:
            return f"litellm {found} is a malicious release, replace it"
    return None


class _Url(NamedTuple):
    """A server's base URL, and the path of its chat completions below it."""

    base: str
    path: str


def _urls(entry: Section, kind: Kind) -> tuple[_Url, ...]:
    """One `url`, or several `urls` of equivalent servers. A litellm target without a `url` is identified by its
    model."""
    if not entry.has("urls"):
        if kind is Kind.LITELLM and not entry.has("url"):
            return (_Url(f"litellm:{entry.string('model')}", ""),)
        return (_url(entry, entry.string("url"), kind, "url"),)
    if entry.has("url"):
        raise entry.error("set either `url` or `urls`, not both", "urls")
    urls = tuple(_url(entry, url, kind, "urls", item) for item, url in enumerate(entry.strings("urls")))
    if not urls:
        raise entry.error("expected at least one URL", "urls")
    for item, url in enumerate(urls):
        if url in urls[:item]:
            raise entry.error(f"duplicate URL {url.base!r}", "urls", item)
    return urls


def _url(entry: Section, url: str, kind: Kind, key: str, item: int | None = None) -> _Url:
    """A checked URL. Credentials are refused, because URLs are logged."""
    try:
        parts = urlsplit(url.strip())
        parts.port  # noqa: B018 - the property validates the port
    except ValueError as error:
        raise entry.error(f"invalid URL: {error}", key, item) from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise entry.error("expected http://host[:port][/path] or https://...", key, item)
    if any(char.isspace() or not char.isprintable() for char in url.strip()):
        raise entry.error("a URL must not contain white space or control characters", key, item)
    if parts.username is not None or parts.fragment:
        raise entry.error("a base URL must not contain credentials or a fragment", key, item)
    if parts.query and kind is not Kind.OPENAI:
        raise entry.error("a query is allowed only for targets of kind openai", key, item)
    return _chat_url(parts, kind)


def _chat_url(parts: SplitResult, kind: Kind) -> _Url:
    """The path as given decides, as with the `base_url` of OpenAI's clients: `/chat/completions` is added unless it
    ends the path. A URL without a path gets /v1, and workers always have it."""
    origin = f"{parts.scheme}://{parts.netloc}"
    if kind is Kind.LITELLM:
        return _Url(origin + parts.path.rstrip("/"), "")
    path, added = parts.path, ""
    if path.rstrip("/").endswith(_CHAT):
        path, slash = path.rstrip("/").removesuffix(_CHAT), "/" * path.endswith("/")
        added = _CHAT + slash
    else:
        path, added = path.rstrip("/"), _CHAT
    if path.endswith("/v1") or not path or kind is Kind.WORKER:
        # The base URL identifies the server, so it is the same for a server that is given with /v1 and without.
        is_whole = parts.path.rstrip("/") == _CHAT
        path, added = path.removesuffix("/v1").rstrip("/"), added if is_whole else "/v1" + added
    return _Url(origin + path, added + (f"?{parts.query}" if parts.query else ""))


def _price(entry: Section) -> Price | None:
    """Unknown by default; `kind: litellm` then uses litellm's own price list."""
    given = entry.section("price")
    if given is None:
        return None
    price = Price(
        input=given.number("input_per_million", minimum=0, maximum=_MAX_PRICE),
        output=given.number("output_per_million", minimum=0, maximum=_MAX_PRICE),
    )
    given.close()
    return price


def _diffusion(entry: Section, kind: Kind) -> tuple[tuple[str, float | tuple[tuple[str, float], ...]], ...]:
    """Default decoding parameters of a worker, for example from `twolane tune`. Requests override them."""
    given = entry.section("diffusion")
    if given is None:
        return ()
    if kind is not Kind.WORKER:
        raise entry.error("allowed only for targets of kind worker", "diffusion")
    integers = {name: given.integer(name, None, minimum=low, maximum=high) for name, (low, high) in _INTEGERS.items()}
    numbers = {name: given.number(name, None, minimum=low, maximum=high) for name, (low, high) in _NUMBERS.items()}
    under_load = _under_load(given.section("under_load"), numbers["entropy_bound"])
    given.close()
    values = tuple((name, value) for name, value in {**integers, **numbers}.items() if value is not None)
    return (*values, ("under_load", under_load)) if under_load else values


def _under_load(given: Section | None, entropy_bound: float | None) -> tuple[tuple[str, float], ...]:
    """The thresholds at full load, which are not stricter than without: workers refuse such a request."""
    if given is None:
        return ()
    numbers = {name: given.number(name, None, minimum=low, maximum=high) for name, (low, high) in _UNDER_LOAD.items()}
    stability = given.integer("stability", None, minimum=0, maximum=64)
    given.close()
    at_load = numbers["entropy_bound"]
    if at_load is not None and entropy_bound is not None and at_load < entropy_bound:
        raise given.error(f"must be at least {entropy_bound:g}, the value without load", "entropy_bound")
    return tuple((name, value) for name, value in {**numbers, "stability": stability}.items() if value is not None)


def _capabilities(entry: Section, kind: Kind) -> Capabilities:
    """Only workers publish their capabilities; for other kinds the policy lists them or names the engine. `takes` adds
    parameters."""
    supported = entry.choices("capabilities", Capability, None)
    engine = entry.string("engine", None)
    takes = _parameters(entry, "takes")
    has_responses = entry.boolean("responses", False)
    if has_responses and kind is not Kind.OPENAI:
        raise entry.error("allowed only for targets of kind openai", "responses")
    if (supported is None) == (engine is None):
        raise entry.error(
            f"a target of kind {kind} requires exactly one of `engine` and `capabilities`", "engine" if engine else None
        )
    limits = {
        "context_length": entry.integer("context_length", None, minimum=1, maximum=1 << 30),
        "max_inputs": entry.integer("max_inputs", None, minimum=1, maximum=1 << 20),
        "dimensions": entry.integer("dimensions", None, minimum=1, maximum=1 << 20),
    }
    if engine is None:
        listed = capabilities_of(frozenset(supported), json_schema=Grade.BEST_EFFORT, tools=Grade.BEST_EFFORT)
    elif engine in ENGINES:
        listed = ENGINES[engine]
    else:
        raise entry.error(f"unknown engine {engine!r}{suggestion(engine, ENGINES)}", "engine")
    if has_responses:
        listed = replace(listed, supported=listed.supported | {Capability.RESPONSES})
    found = with_fields(listed, kind, engine)
    return replace(found, fields=found.fields | takes, **limits)


def _ignore(entry: Section, takes: frozenset[str]) -> frozenset[str]:
    """The parameters to leave out; without the key, those of the engine's profile that the policy does not take."""
    if not entry.has("ignore"):
        entry.strings("ignore", None)
        engine = entry.node.get("engine")
        return DEFAULT_IGNORE.get(engine, frozenset()) - takes if isinstance(engine, str) else frozenset()
    ignore = _parameters(entry, "ignore")
    if both := sorted(ignore & takes):
        raise entry.error(f"{both[0]!r} is also in `takes`", "ignore")
    return ignore


def _parameters(entry: Section, key: str) -> frozenset[str]:
    """Names of request parameters. Unknown ones are allowed, because servers add new ones, but not near misses."""
    names: tuple[str, ...] = entry.strings(key, ())
    for item, name in enumerate(names):
        if name in HANDLED:
            raise entry.error(f"{name!r} is not a parameter that can be listed here", key, item)
        if name not in PARAMETERS and (near := get_close_matches(name, PARAMETERS, n=1, cutoff=0.8)):
            raise entry.error(f"unknown parameter {name!r}; did you mean {near[0]!r}?", key, item)
    return frozenset(names) | (frozenset({"top_logprobs"}) if "logprobs" in names else frozenset())
