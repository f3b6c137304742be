"""Size limits of the automaton of a schema, in tiers from generous to strict.

A compilation takes the first tier whose state budget is sufficient. So small schemas keep deep unconstrained values and
long counted strings, and large schemas still compile. docs/structured-outputs.md lists the effects: limits on depth,
and on the values of undeclared members, make the language smaller (it stays sound); lengths and counts above a limit
are left to validation."""

from dataclasses import dataclass, fields
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeLimits:
    """The limits of one tier."""

    states: int  # under construction; the minimal automaton is smaller
    free_states: int  # more states for deeper unconstrained values and undeclared members
    free_depth: int  # nesting inside a value that the schema leaves unconstrained, at least
    undeclared_depth: int  # the same for undeclared members; -1: no such members
    recursion: int  # how often a subschema may be nested inside itself
    depth: int  # nesting in total
    length: int  # counted code points of a string
    wide: int  # counted code points of all strings together
    items: int  # counted items of an array
    members: int  # counted members of an object
    indents: int  # widths of indentation per level that bounded white space offers, of (2, 4)


MAX_FREE_DEPTH: Final = 5  # of unconstrained values and undeclared members, where the states suffice
# states, free_states, free_depth, undeclared_depth, recursion, depth, length, wide, items, members, indents
_TIERS: Final = (
    (24_000, 20_000, 1, 0, 3, 24, 64, 128, 32, 16, 2),
    (45_000, 20_000, 1, 0, 2, 16, 16, 128, 8, 4, 2),
    (90_000, 14_000, 1, 0, 1, 12, 8, 128, 4, 2, 1),
    (120_000, 10_000, 1, 0, 0, 8, 4, 1000, 3, 1, 1),
    (150_000, 0, 0, -1, 0, 5, 0, 1000, 2, 1, 0),
    (150_000, 0, 0, -1, 0, 3, 0, 1000, 2, 1, 0),
)
SIZE_TIERS: Final = tuple(
    SizeLimits(**dict(zip((entry.name for entry in fields(SizeLimits)), tier, strict=True))) for tier in _TIERS
)
