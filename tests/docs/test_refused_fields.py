"""A target that cannot serve a request is skipped with a field that the client sent."""

from collections.abc import Iterator
from dataclasses import replace

import orjson
import pytest

from docs.compatibility import targets_of
from docs.compatibility_requests import SURFACES, Surface
from gateway.enums import Capability, Reason
from gateway.errors import BadRequest, InvalidField
from gateway.reliability.admission import admit
from gateway.types import Candidate, Capabilities, Health, Query, Target
from gateway.web.apis.table import APIS

CHAT, COMPLETIONS = Capability.CHAT, Capability.COMPLETIONS
POOR = (frozenset[Capability](), frozenset({CHAT}), frozenset({COMPLETIONS}), frozenset({CHAT, COMPLETIONS}))


def targets() -> Iterator[Target]:
    """Each kind of target as it is, and with hardly any capability."""
    for target, _ in targets_of().values():
        yield target
        for supported in POOR:
            yield replace(target, capabilities=Capabilities(supported=supported), ignore=frozenset())


def refused_field(surface: Surface, query: Query, target: Target) -> str | None:
    verdict = admit(Candidate(route="r", target=target), query, Health())
    if verdict.reason is None:
        return None
    assert verdict.reason is Reason.UNSUPPORTED
    error = APIS[surface.path].in_its_terms(InvalidField("refused", param=verdict.param), query)
    return (error.param or "").split(".")[0].split("[")[0]


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.title)
def test_a_refusal_names_a_field_that_the_client_sent(surface: Surface) -> None:
    requests = [surface.request]
    requests += [{**surface.request, **each.beside, name: each.value} for name, each in surface.parameters.items()]
    named = []
    for fields in requests:
        try:
            query = APIS[surface.path].read(orjson.dumps({"model": "auto", **fields}), {}, now_s=0.0, key=None)
        except BadRequest:
            continue
        named += [(fields, field) for target in targets() if (field := refused_field(surface, query, target))]
    assert named
    assert [field for fields, field in named if field not in fields] == []
