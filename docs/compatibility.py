"""The page docs/reference/compatibility.md: what happens to each parameter of each API at each kind of target.

Nothing is written by hand: a request with the parameter is parsed, and its body is written for each kind of target, by
the code that serves requests.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

import orjson

from docs.compatibility_requests import SURFACES, Parameter, Surface
from docs.parameters import parameter_targets
from docs.tables import table
from gateway.enums import Capability, Kind
from gateway.errors import BadRequest
from gateway.parameters import ignored_by, lacking
from gateway.types import Call, Capabilities, Query, Target
from gateway.upstreams.fan_out import MAX_AT_ONCE
from gateway.upstreams.request_body import document_for
from gateway.web.apis.table import APIS

PASSED, GATEWAY, LEFT_OUT, IGNORED, CALLS = "passed", "gateway", "left out", "ignored", "n calls"
SKIPPED, REFUSED, NONE = "skipped", "400", "-"
RESPONSES: Final = "openai, responses"
_MEANINGS: Final = {
    PASSED: "Honoured by the target: it gets the parameter under the same name.",
    "as `NAME`": "Honoured by the target: it gets the parameter in this field.",
    GATEWAY: "Honoured by the gateway; the target does not get it.",
    CALLS: f"Honoured by one call for each choice, {MAX_AT_ONCE} at a time.",
    LEFT_OUT: "Dropped harmlessly: a hint, a label, or an identity.",
    IGNORED: "Dropped, and named in the header `x-twolane-ignored`.",
    SKIPPED: "Refused by name: the target is skipped as `unsupported`. If no other can serve, the answer is a 400"
    " that names the parameter.",
    REFUSED: "Refused by name at every target, with a 400.",
    NONE: "The target has no such API, and none that could take its place.",
}
_MODEL: Final = "m"
# What a query keeps of a parameter beside what it makes the gateway do.
_NO_DEED: Final[Mapping[str, Any]] = {
    "request_id": "",
    "body": b"",
    "parameters": None,
    "has_prediction": False,
    "spans": None,
}
_NO_DEED_BEYOND: Final[Mapping[str, Any]] = {"response_body": None, "repeated": {}, "ignored": frozenset()}


def compatibility() -> Iterator[str]:
    """The page's lines."""
    yield from ("# Compatibility", "", _INTRODUCTION, "")
    yield from table(("word", "meaning"), ((f"*{word}*", text) for word, text in _MEANINGS.items()))
    for surface in SURFACES:
        cells = cells_of(surface)
        kinds = list(next(iter(cells.values())))
        yield from (f"## {surface.title}: `{surface.path}`", "")
        rows = ((f"`{name}`", *found.values()) for name, found in cells.items())
        yield from table(("parameter", *kinds), rows)
    yield _NOTES


def cells_of(surface: Surface) -> dict[str, dict[str, str]]:
    """What happens to each parameter at each kind of target."""
    targets = {
        name: found for name, found in targets_of().items() if name != RESPONSES or surface.path == "/v1/responses"
    }
    found: dict[str, dict[str, str]] = {}
    plain = _read(surface, {})
    for name, parameter in surface.parameters.items():
        without = _read(surface, parameter.beside)
        given = _read(surface, {**parameter.beside, name: parameter.value})
        assert without is not None, f"{surface.path}: the request without {name!r} is refused"
        found[name] = {
            kind: REFUSED
            if given is None
            else NONE
            if plain is None or lacking(*target, plain)
            else _cell(name, parameter, target, without, given)
            for kind, target in targets.items()
        }
    return found


def targets_of() -> dict[str, tuple[Target, Capabilities]]:
    """Each kind of target."""
    kinds = {"worker": Kind.WORKER, "litellm": Kind.LITELLM}
    found = {
        name: (_target(name, kinds.get(name, Kind.OPENAI), capabilities, ignore), capabilities)
        for name, (capabilities, ignore) in parameter_targets().items()
    }
    plain, capabilities = found["openai"]
    own = replace(capabilities, supported=capabilities.supported | {Capability.RESPONSES})
    last = found.pop("litellm")
    return {**found, RESPONSES: (replace(plain, capabilities=own), own), "litellm": last}


def _target(name: str, kind: Kind, capabilities: Capabilities, ignore: frozenset[str]) -> Target:
    url = f"http://{name.replace('_', '-')}"
    return Target(
        name=name,
        kind=kind,
        url=url,
        model=_MODEL,
        location="external",
        capabilities=capabilities,
        ignore=ignore,
        engine=None if kind is Kind.WORKER else name,
    )


def _read(surface: Surface, fields: Mapping[str, Any]) -> Query | None:
    """None if the request is refused."""
    body = orjson.dumps({"model": "auto", **surface.request, **fields})
    try:
        return APIS[surface.path].read(body, {}, now_s=0.0, key=None)
    except BadRequest:
        return None


def _cell(name: str, parameter: Parameter, target: tuple[Target, Capabilities], without: Query, given: Query) -> str:
    at, capabilities = target
    if lacking(at, capabilities, given):
        return SKIPPED
    if name == "n" and Capability.N not in capabilities.supported:
        return CALLS
    before, after = (_body(at, capabilities, query) for query in (without, given))
    changed = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    if name in changed and after.get(name) == parameter.value:
        return PASSED
    if changed:
        return f"as {', '.join(f'`{each}`' for each in changed)}"
    if set(ignored_by(at, given)) - set(ignored_by(at, without)):
        return IGNORED
    return GATEWAY if _deeds(without) != _deeds(given) else LEFT_OUT


def _body(target: Target, capabilities: Capabilities, query: Query) -> dict[str, Any]:
    return document_for(Call(target=target, query=query, ignored=ignored_by(target, query)), capabilities)


def _deeds(query: Query) -> Query:
    """What the query makes the gateway do."""
    return replace(query, **_NO_DEED, beyond_chat=replace(query.beyond_chat, **_NO_DEED_BEYOND))


_INTRODUCTION: Final = """\
Each row is one request with a value that has an effect; `null` and [values without effect](parameters.md) change
nothing anywhere. The columns are `kind: worker`, the engines of `kind: openai`, and `kind: litellm` with `engine:
openai`. Targets of *openai, responses* have `responses: true`. `capabilities`, `takes` and `ignore` of a target change
what it gets ([policies](../policies.md#reference-targets))."""
_NOTES: Final = """\
`store` of a response is *gateway* where the gateway has a store, and so is `previous_response_id`
([responses](../apis.md#responses)). `metadata` is read by the policy: its `task` and `private` are hints for the
gateway and never sent. `kind: litellm` leaves out hints such as `user` and `verbosity`, unless litellm knows that the
model takes them. Fields that a table does not list are treated as [parameters](parameters.md) of chat completions,
except by decisions, which refuse them by name. `min_confidence` of a question in a decision is *gateway*: it decides
which target's answer is served ([decisions](../apis.md#decisions)).
"""
