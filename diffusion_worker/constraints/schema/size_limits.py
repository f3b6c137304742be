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
    free_depth: int  # nesting inside a value that the schema leaves unconstrained
    undeclared_depth: int  # the same for undeclared members; -1: no such members
    recursion: int  # how often a subschema may be nested inside itself
    depth: int  # nesting in total
    length: int  # counted code points of a string
    wide: int  # counted code points of all strings together
    items: int  # counted items of an array
    members: int  # counted members of an object
    indents: int  # widths of indentation per level that bounded white space offers, of (2, 4)


# states, free_depth, undeclared_depth, recursion, depth, length, wide, items, members, indents
_TIERS: Final = (
    (10_000, 3, 1, 3, 24, 64, 128, 32, 16, 2),
    (12_500, 2, 1, 2, 16, 32, 128, 16, 8, 2),
    (17_500, 2, 0, 2, 12, 16, 128, 8, 4, 2),
    (22_500, 1, -1, 1, 10, 8, 128, 4, 2, 1),
    (31_000, 1, -1, 0, 8, 4, 1000, 3, 1, 1),
    (37_500, 0, -1, 0, 5, 0, 1000, 2, 1, 0),
)
SIZE_TIERS: Final = tuple(
    SizeLimits(**dict(zip((entry.name for entry in fields(SizeLimits)), tier, strict=True))) for tier in _TIERS
)
