"""The policy that `twolane init` writes, as text: two targets, and a route for each kind of request.

Pure. The real loader checks what comes out.
"""

import ipaddress
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from gateway.enums import Capability
from gateway.routing.engine_profiles import ENGINES

WORKER: Final = "worker"  # the engine of the fast lane whose capabilities and confidence are its own words
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
    """`in_cluster` for hosts of this machine or a private network, else `external`: never sent a private request."""
    host = urlsplit(url).hostname or ""
    try:
        return "in_cluster" if ipaddress.ip_address(host).is_private else "external"
    except ValueError:
        return "in_cluster" if "." not in host or host.endswith(_IN_CLUSTER_SUFFIXES) else "external"


def _targets(fast: Lane, quality: Lane) -> Iterator[str]:
    yield "# Written by `twolane init`. Check it with `twolane policy check`, run it with `twolane serve --policy`."
    yield "version: 1"
    yield "targets:"
    yield "  # The fast lane: a diffusion model. `key_env` is the name of the variable that holds a key, never the key."
    yield f"  fast: {_target(fast, location_of(fast.url))}"
    yield "  # The quality lane. A request marked private is never sent to an `external` target."
    yield f"  quality: {_target(quality, 'external')}"


def _target(lane: Lane, location: str) -> str:
    kind = "kind: worker" if lane.engine == WORKER else "kind: openai"
    engine = "" if lane.engine == WORKER else f", engine: {lane.engine}"
    key = f", key_env: {lane.key_env}" if lane.key_env else ""
    return f"{{{kind}, url: {_quoted(lane.url)}, model: {_quoted(lane.model)}{engine}{key}, location: {location}}}"


def _routes(fast: Lane) -> Iterator[str]:
    yield "routes:"
    yield "  # Most of the answer is known already. If the fast lane fails or is too slow, the quality lane answers."
    yield "  - name: edits"
    yield '    when: {task: [edit, autocomplete], confidence: ">= 0.6"}'
    yield "    use: fast"
    yield "    slo: {p95_ms: 2000}  # while the fast lane is slower than this, it is ejected"
    if fast.engine == WORKER:
        yield "    min_confidence: 0.8  # below it, the quality lane answers"
    yield "    fall_back: [quality]"
    if fast.engine == WORKER or Capability.JSON_SCHEMA in ENGINES[fast.engine].words:
        yield "  # The request has a JSON Schema: the whole answer is validated before its first byte is sent."
        yield "  - name: constrained"
        yield "    when: {schema: true}"
        yield "    use: fast"
        yield "    validate: {schema: request, buffer: full}"
        yield "    fall_back: [quality]"
    yield "  - name: default  # everything else"
    yield "    use: quality"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # a double-quoted scalar of YAML
