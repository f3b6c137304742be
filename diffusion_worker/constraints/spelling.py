"""How JSON writes a string: languages over code points become states over bytes (RFC 8259, strict UTF-8).

A *free* spelling admits every escape of every character. The *plain* one, for strings that are restricted in any way,
admits what writers produce: printable ASCII as itself, the short escapes, `\\uXXXX` (and surrogate pairs) for controls
and for what is not ASCII, with either case of hexadecimal digits. Lone surrogates are never admitted.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Final

from diffusion_worker.constraints.automaton import Edge
from diffusion_worker.constraints.graph import Graph
from diffusion_worker.constraints.minimise import Rows
from diffusion_worker.constraints.ranges import Ranges, common, digit_ranges, holds

QUOTE: Final = 0x22
Spelling = tuple[Ranges, ...]  # one set of bytes after the other
Spell = Callable[[Ranges], tuple[Spelling, ...]]

_RAW_ASCII: Final[Ranges] = ((0x20, 0x21), (0x23, 0x5B), (0x5D, 0x7F))
_SHORT: Final = {0x22: '"', 0x5C: "\\", 0x2F: "/", 8: "b", 12: "f", 10: "n", 13: "r", 9: "t"}
# first code point, last, radices of the bytes, the first byte's offset
_UTF8: Final = (
    (0x80, 0x7FF, (32, 64), 0xC0),
    (0x800, 0xFFFF, (16, 64, 64), 0xE0),
    (0x10000, 0x10FFFF, (8, 64, 64, 64), 0xF0),
)
_BACKSLASH: Final[Ranges] = ((0x5C, 0x5C),)
_U: Final[Ranges] = ((0x75, 0x75),)
_D: Final[Ranges] = ((0x44, 0x44), (0x64, 0x64))
_ESCAPED_IF_PLAIN: Final[Ranges] = ((0, 0x1F), (0x7F, 0xD7FF), (0xE000, 0x10FFFF))


def string(graph: Graph, language: Rows, following: int, *, free: bool = False) -> int:
    """The state before a string of the language, quotes included; `following` is the one behind the closing quote."""
    return graph.state([(QUOTE, QUOTE, body(graph, language, following, free=free))])


def body(graph: Graph, language: Rows, following: int, *, free: bool = False) -> int:
    """The same, behind the opening quote."""
    return _laid(graph, language, [(QUOTE, QUOTE, following)], lambda ranges: _json(ranges, free))


def raw(graph: Graph, language: Rows, following: int) -> int:
    """The language in plain UTF-8, without quotes and escapes, and then `following` without a border between them."""
    return _laid(graph, language, graph.rows[following], _utf8, accepting=graph.accepting[following])


def _laid(graph: Graph, language: Rows, closing: Sequence[Edge], spell: Spell, *, accepting: bool = False) -> int:
    bodies = [graph.reserve() for _ in language.rows]
    for state, row in enumerate(language.rows):
        by_target: dict[int, list[tuple[int, int]]] = {}
        for first, last, target in row:
            by_target.setdefault(target, []).append((first, last))
        spelled = [(s, bodies[target]) for target, ranges in by_target.items() for s in spell(tuple(ranges))]
        edges = _trie(graph, spelled)
        if language.accepting[state]:
            edges = graph.merged(edges, graph.state(closing))
        graph.fill(bodies[state], edges, accepting=accepting and language.accepting[state])
    return bodies[language.start]


def _trie(graph: Graph, spelled: Sequence[tuple[Spelling, int]]) -> list[Edge]:
    """Spellings differ first where their sets of bytes are disjoint (see `digit_ranges`), so this is deterministic."""
    grouped: dict[Ranges, list[tuple[Spelling, int]]] = {}
    for spelling, target in spelled:
        grouped.setdefault(spelling[0], []).append((spelling[1:], target))
    edges: list[Edge] = []
    for labels, rest in grouped.items():
        target = rest[0][1] if not rest[0][0] else graph.state(_trie(graph, rest))
        edges.extend((first, last, target) for first, last in labels)
    return edges


@lru_cache(maxsize=4096)
def _json(ranges: Ranges, free: bool) -> tuple[Spelling, ...]:
    """Every spelling of the characters inside a JSON string."""
    spellings = list(_utf8(common(ranges, ((0x80, 0x10FFFF),))))
    if ascii_bytes := common(ranges, _RAW_ASCII):
        spellings.append((ascii_bytes,))
    if shorts := tuple((ord(sign), ord(sign)) for code, sign in sorted(_SHORT.items()) if holds(ranges, code)):
        spellings.append((_BACKSLASH, tuple(sorted(shorts))))
    for first, last in ranges if free else common(ranges, _ESCAPED_IF_PLAIN):
        spellings.extend(_escaped(first, last))
    return tuple(spellings)


@lru_cache(maxsize=4096)
def _utf8(ranges: Ranges) -> tuple[Spelling, ...]:
    spellings: list[Spelling] = [(((first, last),),) for first, last in common(ranges, ((0, 0x7F),))]
    for low, high, radices, lead in _UTF8:
        for first, last in common(ranges, ((low, high),)):
            for digits in digit_ranges(first, last, radices):
                (a, b), *rest = digits
                tail = tuple(((0x80 + c, 0x80 + d),) for c, d in rest)
                spellings.append((((lead + a, lead + b),), *tail))
    return tuple(spellings)


def _escaped(first: int, last: int) -> Iterator[Spelling]:
    """`\\uXXXX` of the code points first..last; two of them beyond the basic plane."""
    if first <= 0xFFFF:
        for digits in digit_ranges(first, min(last, 0xFFFF), (16, 16, 16, 16)):
            yield (_BACKSLASH, _U, *(_nibbles(pair) for pair in digits))
    if last > 0xFFFF:
        for digits in digit_ranges(max(first, 0x10000) - 0x10000, last - 0x10000, (4, 16, 16, 4, 16, 16)):
            (a, b), c, d, (e, f), g, h = digits
            high = (_D, _nibbles((8 + a, 8 + b)), _nibbles(c), _nibbles(d))
            low = (_D, _nibbles((12 + e, 12 + f)), _nibbles(g), _nibbles(h))
            yield (_BACKSLASH, _U, *high, _BACKSLASH, _U, *low)


@lru_cache(maxsize=256)
def _nibbles(pair: tuple[int, int]) -> Ranges:
    """The hexadecimal digits of the values first..last, in both cases."""
    first, last = pair
    decimal = [(48 + first, 48 + min(last, 9))] if first <= 9 else []
    letters = [(offset + max(first, 10), offset + last) for offset in (55, 87)] if last >= 10 else []
    return tuple(decimal + letters)
