"""Size limits of the automaton of a schema, in tiers from generous to strict.

A compilation takes the first tier whose state budget is sufficient. So small schemas keep deep unconstrained values and
long counted strings, and large schemas still compile. docs/structured-outputs.md lists the effects: limits on depth,
and on the values of undeclared members, make the language smaller (it stays sound); lengths and counts above a limit
are left to validation.

The last tiers are dense: one line, and strings as they are inside unconstrained values. Their states are divided among
the containers of the schema (see `allotments`), so the first of them is sufficient for any schema whose root fits; the
others are for several tools in a request."""

from dataclasses import dataclass, replace
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeLimits:
    """The limits of one tier."""

    states: int  # under construction; the minimal automaton is smaller
    free_states: int = 0  # more states for deeper unconstrained values and undeclared members
    free_depth: int = 1  # nesting inside a value that the schema leaves unconstrained, at least
    undeclared_depth: int = 0  # the same for undeclared members
    recursion: int  # how often a subschema may be nested inside itself
    depth: int  # nesting in total
    length: int  # counted code points of a string
    wide: int = 128  # counted code points of all strings together
    items: int  # counted items of an array
    members: int  # counted members of an object
    indents: int  # widths of indentation per level that bounded white space offers, of (2, 4)
    compact_formats: bool = True  # no IP addresses in brackets inside URIs and e-mail addresses
    dense: bool = False  # containers get shares of the states; strings without `\uXXXX` and beyond U+3FFFF


MAX_FREE_DEPTH: Final = 5  # of unconstrained values and undeclared members, where the states suffice
_DENSE: Final = SizeLimits(
    states=60_000,
    free_depth=0,
    recursion=24,
    depth=24,
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
    *(replace(_DENSE, states=states) for states in (60_000, 30_000, 15_000, 8_000, 4_000, 2_000, 1_000, 500)),
)
