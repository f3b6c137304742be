"""Renders the policy that `twolane init` writes: two targets and up to three routes. Pure."""

import ipaddress
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from gateway.enums import Capability
from gateway.routing.engine_profiles import DIFFUSION, ENGINES

WORKER: Final = "worker"  # not a profile: a worker reports its capabilities and its confidence
_IN_CLUSTER_SUFFIXES: Final = (".local", ".internal", ".svc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """One model server: where it is, the model it serves, its engine, and the variable that holds its key."""

    url: str
    model: str
    engine: str
    key_env: str | None


def render(fast: Lane, quality: Lane) -> str:
    """Return the text of the policy."""
    return "\n".join([*_targets(fast, quality), *_routes(fast)]) + "\n"


def location_of(url: str) -> str:
    """Return `in_cluster` for hosts of this machine or a private network, else `external`."""
    host = urlsplit(url).hostname or ""
    try:
        return "in_cluster" if ipaddress.ip_address(host).is_private else "external"
    except ValueError:
        return "in_cluster" if "." not in host or host.endswith(_IN_CLUSTER_SUFFIXES) else "external"


def _targets(fast: Lane, quality: Lane) -> Iterator[str]:
    yield "# Written by `twolane init`. Validate it with `twolane policy check`, use it with `twolane serve --policy`."
    yield "version: 1"
    yield "targets:"
    yield "  # The fast lane: a diffusion model. `key_env` names the environment variable that holds an API key."
    yield f"  fast: {_target(fast, location_of(fast.url))}"
    yield "  # The quality lane. Private requests are never sent to an `external` target."
    yield f"  quality: {_target(quality, 'external')}"


def _target(lane: Lane, location: str) -> str:
    kind = "kind: worker" if lane.engine == WORKER else "kind: openai"
    engine = "" if lane.engine == WORKER else f", engine: {lane.engine}"
    key = f", key_env: {lane.key_env}" if lane.key_env else ""
    return f"{{{kind}, url: {_quoted(lane.url)}, model: {_quoted(lane.model)}{engine}{key}, location: {location}}}"


def _routes(fast: Lane) -> Iterator[str]:
    yield "routes:"
    yield "  # Most of the answer is already known. If the fast lane fails or is too slow, the quality lane answers."
    yield "  - name: edits"
    yield '    when: {task: [edit, autocomplete], confidence: ">= 0.78",'
    yield "           confidence_of: [edit, autocomplete, structured, extraction]}  # the sum of their probabilities"
    yield "    use: fast"
    yield "    slo: {p95_ms: 2000}  # a slower fast lane is ejected until it recovers"
    if _has_gate(fast):
        yield "    min_confidence: 0.8  # less confident answers go to the quality lane"
    yield "    deadline_ms: 60000"
    yield "    attempt_ms: 20000  # leaves time for the quality lane"
    yield "    fall_back: [quality]"
    if fast.engine == WORKER or Capability.JSON_SCHEMA in ENGINES[fast.engine].supported:
        yield "  # Requests with a JSON Schema: the complete answer is validated before its first byte is sent."
        yield "  - name: constrained"
        yield "    when: {schema: true}"
        yield "    use: fast"
        yield "    validate: {schema: request, buffer: full}"
        if _has_gate(fast):
            yield "    min_confidence: 0.8"
        yield "    deadline_ms: 60000"
        yield "    attempt_ms: 20000"
        yield "    fall_back: [quality]"
    yield "  - name: default  # everything else"
    yield "    use: quality"


def _has_gate(fast: Lane) -> bool:
    """Whether the confidence of a diffusion model is known: reported, or computed from log-probabilities."""
    return fast.engine == WORKER or (fast.engine in DIFFUSION and Capability.LOGPROBS in ENGINES[fast.engine].supported)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # a double-quoted scalar of YAML
