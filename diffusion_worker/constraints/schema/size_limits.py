"""Size limits of the automaton of a schema, in tiers from generous to strict.

A compilation takes the first tier whose state budget is sufficient. So small schemas keep deep unconstrained values and
long counted strings, and large schemas still compile. docs/structured-outputs.md lists the effects: limits on depth,
and on the values of undeclared members, make the language smaller (it stays sound); lengths and counts above a limit
are left to validation.

The last tiers are dense: one line, and strings as they are inside unconstrained values. They differ in depth only, and
each admits all that the next one does, so the first sufficient one is found by bisection."""

from dataclasses import dataclass, replace
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeLimits:
    """The limits of one tier."""

    states: int  # under construction; the minimal automaton is smaller
    free_states: int  # more states for deeper unconstrained values and undeclared members
    free_depth: int = 1  # nesting inside a value that the schema leaves unconstrained, at least
    undeclared_depth: int = 0  # the same for undeclared members; -1: no such members
    reach: int = 0  # nesting in total that unconstrained values may reach, where that is more
    recursion: int  # how often a subschema may be nested inside itself
    depth: int  # nesting in total
    length: int  # counted code points of a string
    wide: int = 128  # counted code points of all strings together
    items: int  # counted items of an array
    members: int  # counted members of an object
    indents: int  # widths of indentation per level that bounded white space offers, of (2, 4)
    compact_formats: bool = True  # no IP addresses in brackets inside URIs and e-mail addresses
    dense: bool = False  # strings without `\uXXXX` and without characters beyond U+3FFFF

    def free_depth_at(self, level: int, *, is_undeclared: bool) -> int:
        """The nesting inside an unconstrained value that is nested so deeply itself."""
        least = self.undeclared_depth if is_undeclared else self.free_depth
        return max(least, min(self.reach - level, MAX_FREE_DEPTH))


MAX_FREE_DEPTH: Final = 5  # of unconstrained values and undeclared members, where the states suffice
_DENSE: Final = SizeLimits(
    states=60_000,
    free_states=17_000,
    free_depth=0,
    recursion=0,
    depth=8,
    length=1,
    wide=1000,
    items=2,
    members=1,
    indents=0,
    dense=True,
)
SIZE_TIERS: Final = (
    SizeLimits(
        states=12_000,
        free_states=17_000,
        recursion=7,
        depth=24,
        length=64,
        items=32,
        members=16,
        indents=2,
        compact_formats=False,
    ),
    SizeLimits(states=24_000, free_states=17_000, recursion=3, depth=24, length=64, items=32, members=16, indents=2),
    SizeLimits(states=40_000, free_states=17_000, recursion=2, depth=16, length=16, items=8, members=4, indents=2),
    SizeLimits(states=60_000, free_states=17_000, recursion=1, depth=12, length=8, items=4, members=2, indents=1),
    replace(_DENSE, recursion=1, depth=12),
    *(replace(_DENSE, depth=depth) for depth in (8, 6, 5, 4)),
    *(replace(_DENSE, depth=depth, free_states=0, undeclared_depth=-1) for depth in (4, 3)),
)
