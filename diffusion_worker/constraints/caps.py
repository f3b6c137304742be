"""How much of a language is kept: the caps of the normal form, from generous to frugal.

A compilation climbs down this ladder until its states fit the rung. So small schemas get deep free-form values and long
counted strings, and large ones still compile. What a cap cuts is documented in docs/constraints.md: depths and the
values of undeclared members make the language smaller (still sound); lengths and counts beyond a cap are left to the
final check.
"""

from dataclasses import dataclass
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
    items: int  # counted items of an array
    members: int  # counted members of an object


LADDER: Final = (
    Caps(states=3_000, free_depth=3, undeclared_depth=1, recursion=3, depth=24, length=128, items=32, members=16),
    Caps(states=5_000, free_depth=2, undeclared_depth=0, recursion=2, depth=16, length=64, items=16, members=8),
    Caps(states=8_000, free_depth=2, undeclared_depth=-1, recursion=2, depth=12, length=32, items=8, members=4),
    Caps(states=12_000, free_depth=1, undeclared_depth=-1, recursion=1, depth=10, length=8, items=4, members=2),
    Caps(states=25_000, free_depth=1, undeclared_depth=-1, recursion=0, depth=8, length=4, items=3, members=1),
    Caps(states=25_000, free_depth=0, undeclared_depth=-1, recursion=0, depth=5, length=0, items=2, members=1),
)
