"""Schemas that are made to take long or to need much memory: they compile within bounds, or are refused by name."""

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from diffusion_worker.constraints.compile import compile_constraint
from diffusion_worker.constraints.spec import Constraint
from diffusion_worker.errors import UnsupportedSchema

MAX_SECONDS = 10.0  # of processor time, the limit of a compilation in the worker
Json = Any


def _chain(length: int, link: Callable[[Json], Json]) -> Json:
    """Definitions that each refer to the next one."""
    names = [f"a{index}" for index in range(length + 1)]
    links = {name: link({"$ref": f"#/$defs/{after}"}) for name, after in pairwise(names)}
    return {"$ref": "#/$defs/a0", "$defs": {**links, names[-1]: {"type": "integer"}}}


def _nested(depth: int, around: Callable[[int, Json], Json], innermost: Json) -> Json:
    for index in range(depth):
        innermost = around(index, innermost)
    return innermost


COMPILED: dict[str, Json] = {
    "the same definition in both branches of anyOf": _chain(40, lambda link: {"anyOf": [link, link]}),
    "the same definition twice in allOf": _chain(40, lambda link: {"allOf": [link, link]}),
    "an expression whose automaton doubles with each repetition": {"pattern": "^(a|b)*a(a|b){20}$"},
    "an expression on which backtracking never ends": {"pattern": "^(a+)+$", "maxLength": 30},
    "repetitions of repetitions": {"pattern": "^(.{0,100}){0,100}$"},
    "long repetitions of a large class": {"pattern": r"^\p{L}{2000}$"},
    "many expressions at once": {"allOf": [{"pattern": f"a.*{index}.*b"} for index in range(40)]},
    "patterns of names that overlap": {
        "patternProperties": {char: {"minimum": index} for index, char in enumerate("abcdefghijklmnopqrst")}
    },
    "nested unevaluatedProperties": _nested(
        50, lambda index, inner: {"properties": {f"p{index}": inner}, "unevaluatedProperties": False}, {}
    ),
    "nested negations": _nested(10, lambda _, inner: {"not": {"properties": {"a": inner}}}, {"type": "integer"}),
    "astronomic counts": {"type": "array", "minItems": 10**12, "maxItems": 10**15, "items": {"minLength": 10**12}},
    "factors that are far apart": {"multipleOf": 1e-300, "minimum": 0, "maximum": 1e300},
}
REFUSED: dict[str, tuple[Json, str, str]] = {
    "alternatives that double with each definition": (
        _chain(40, lambda link: {"anyOf": [link, {"allOf": [link, {"minimum": 0}]}]}),
        "more than 4096 alternatives",
        "anyOf",
    ),
    "the same definition in both branches of oneOf": (
        _chain(40, lambda link: {"oneOf": [link, link]}),
        "more than 4096 alternatives",
        "oneOf",
    ),
    "a loop of references": (
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
        "infinite",
        "$ref",
    ),
    "a negation of itself": ({"not": {"$ref": "#"}}, "infinite", "$ref"),
}


@pytest.mark.parametrize("name", COMPILED)
def test_hostile_schemas_compile_within_the_limit(name: str) -> None:
    """What does not fit into an automaton is left to validation."""
    started = time.process_time()
    compiled = compile_constraint(Constraint(kind="json_schema", value=COMPILED[name]))
    assert time.process_time() - started < MAX_SECONDS
    assert compiled.automaton.states > 0


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_bounded_is_refused_with_its_place(name: str) -> None:
    schema, message, keyword = REFUSED[name]
    with pytest.raises(UnsupportedSchema, match=message) as caught:
        compile_constraint(Constraint(kind="json_schema", value=schema))
    assert caught.value.keyword == keyword
