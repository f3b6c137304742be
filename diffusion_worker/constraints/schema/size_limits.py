"""How much of a language is kept: the caps of the normal form, from generous to frugal.

A compilation climbs down this ladder until its states fit the rung. So small schemas get deep free-form values and long
counted strings, and large ones still compile. What a cap cuts is documented in docs/structured-outputs.md: depths and
the values of undeclared members make the language smaller (still sound); lengths and counts beyond a cap are left to
the final check. """

from dataclasses import dataclass, fields
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Caps:
    """Bounds on what one automaton keeps."""

    states: int  # under construction; the minimal automaton is smaller
    free_depth: int  # levels of arrays and objects inside a value about which the schema says nothing
    undeclared_depth: int  # the same, for members the schema does not mention; -1: no such members
    recursion: int  # how often a position may stand inside itself
    depth: int  # levels of arrays and objects altogether
    length: int  # counted code points of a string
    wide: int  # counted code points of all strings together
    items: int  # counted items of an array
    members: int  # counted members of an object


# states, free_depth, undeclared_depth, recursion, depth, length, wide, items, members
_RUNGS: Final = (
    (8_000, 3, 1, 3, 24, 64, 128, 32, 16),
    (10_000, 2, 1, 2, 16, 32, 128, 16, 8),
    (14_000, 2, 0, 2, 12, 16, 128, 8, 4),
    (18_000, 1, -1, 1, 10, 8, 128, 4, 2),
    (25_000, 1, -1, 0, 8, 4, 1000, 3, 1),
    (30_000, 0, -1, 0, 5, 0, 1000, 2, 1),
)
LADDER: Final = tuple(Caps(**dict(zip((entry.name for entry in fields(Caps)), rung, strict=True))) for rung in _RUNGS)
