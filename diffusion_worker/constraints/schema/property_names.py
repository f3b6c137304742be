"""Undeclared member names of an object, partitioned into groups: one per combination of `patternProperties` that can
match together, and one for the remaining names.

The groups are disjoint regular languages, so the subschemas of a name never depend on how far it has been read.
"""

from dataclasses import dataclass, field, replace
from typing import Final

from diffusion_worker.constraints.automata.code_point_dfa import (
    ANY_TEXT,
    dfa_of_pattern,
    dfa_of_words,
    difference,
    intersection,
    union,
)
from diffusion_worker.constraints.automata.graph import TooLarge
from diffusion_worker.constraints.automata.minimise import EMPTY, RangeDfa
from diffusion_worker.constraints.automata.regex import NotRegular
from diffusion_worker.constraints.schema.combine import Combiner
from diffusion_worker.constraints.schema.document import Conj, conjunction
from diffusion_worker.constraints.schema.shapes import MemberLayer, Members
from diffusion_worker.constraints.schema.size_limits import SizeLimits
from diffusion_worker.constraints.schema.strings import MIN_WIDE, has_two_readings, language, wide_states

_MAX_GROUPS: Final = 32  # overlapping patterns would double them one by one


@dataclass(slots=True)
class Findings:
    """What building reports: keywords left to validation, and whether values are missing from the language."""

    unchecked: set[str] = field(default_factory=set)
    is_cut: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberGroup:
    """A language of names and the subschemas of their values. `unconstrained`: no layer restricts the values."""

    names: RangeDfa
    conj: Conj = ()
    unconstrained: bool = True


def allowed_names(combiner: Combiner, members: Members, limits: SizeLimits, findings: Findings) -> RangeDfa:
    """The names that `propertyNames` allows."""
    if not members.names:
        return ANY_TEXT
    found = EMPTY
    for shape in combiner.shapes(members.names):
        findings.unchecked.update({"propertyNames"} if shape.unchecked else ())
        if "string" not in shape.types:
            continue
        if shape.literals is not None:
            found = union(found, dfa_of_words(frozenset(value for value in shape.literals if isinstance(value, str))))
            continue
        names = language(shape.text, limits.length, compact=limits.compact_formats)
        findings.unchecked.update({"propertyNames"} if names.unchecked else ())
        findings.is_cut |= names.is_cut
        found = union(found, names.rows)
    return found


def member_groups(members: Members, names: RangeDfa, findings: Findings) -> list[MemberGroup]:
    """The undeclared names in `names`, partitioned by the subschemas that apply to them."""
    found = [MemberGroup(names=difference(names, dfa_of_words(frozenset(members.declared))))]
    for layer in members.layers:
        most = max(1, _MAX_GROUPS // max(1, len(found)))
        found = [part for group in found for part in _split(group, layer, findings, most)]
    if members.closed:
        found = [group for group in found if group.conj]
    return found


def _split(group: MemberGroup, layer: MemberLayer, findings: Findings, most: int) -> list[MemberGroup]:
    """Apply one layer: names that match none of its patterns are subject to its `additionalProperties`. Patterns that
    would make more than about `most` groups are left to validation."""
    matched: list[MemberGroup] = []
    rest = group
    for pattern, conj in layer.patterns:
        try:
            if len(matched) > most:
                raise TooLarge("too many groups of names")
            inside, outside = _sides(pattern, findings)
            matched = [part for found in matched for part in _split_group(found, inside, outside, conj)]
            matched.extend(_narrow(rest, intersection(rest.names, inside), conj))
            rest = replace(rest, names=difference(rest.names, outside))
        except (NotRegular, TooLarge):  # names that match are subject to other subschemas too
            findings.unchecked.add("patternProperties")
            findings.is_cut = True
    if not rest.names.rows:
        return matched
    if layer.rest is not None:
        rest = replace(rest, conj=conjunction(rest.conj, layer.rest), unconstrained=False)
    return [*matched, rest]


def _sides(pattern: str, findings: Findings) -> tuple[RangeDfa, RangeDfa]:
    """The names that certainly match, and those that may match."""
    inside, outside = dfa_of_pattern(pattern), dfa_of_pattern(pattern, wide=True)
    findings.is_cut |= has_two_readings(pattern)
    if max(wide_states(inside), wide_states(outside)) > MIN_WIDE:
        findings.unchecked.add("patternProperties")
        findings.is_cut = True
        inside, outside = (dfa_of_pattern(pattern, wide=wide, repeats=MIN_WIDE // 4) for wide in (False, True))
    return inside, outside


def _split_group(group: MemberGroup, inside: RangeDfa, outside: RangeDfa, conj: Conj) -> list[MemberGroup]:
    left = difference(group.names, outside)
    apart = [replace(group, names=left)] if left.rows else []
    return [*apart, *_narrow(group, intersection(group.names, inside), conj)]


def _narrow(group: MemberGroup, names: RangeDfa, conj: Conj) -> list[MemberGroup]:
    return [MemberGroup(names=names, conj=conjunction(group.conj, conj), unconstrained=False)] if names.rows else []
