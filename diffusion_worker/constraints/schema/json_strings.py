"""JSON string encoding: DFAs over code points become states over bytes (RFC 8259, strict UTF-8).

The *free* encoding accepts every escape of every character. The *plain* encoding, for restricted strings, accepts what
serialisers produce: printable ASCII as itself, short escapes, and `\\uXXXX` (and surrogate pairs) for control
characters and non-ASCII characters, with hexadecimal digits in either case. The *raw* encoding, for strings inside
unconstrained values, is the plain one without `\\uXXXX` and without characters beyond U+3FFFF (tags, variation
selectors and private use). Lone surrogates are never accepted.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

from diffusion_worker.constraints.automata.automaton import Edge
from diffusion_worker.constraints.automata.code_point_dfa import shared_length
from diffusion_worker.constraints.automata.graph import Graph, coalesce
from diffusion_worker.constraints.automata.minimise import RangeDfa
from diffusion_worker.constraints.automata.ranges import Ranges, contains, digit_ranges, intersect

QUOTE: Final = 0x22
ByteEncoding = tuple[Ranges, ...]  # a sequence of byte sets
Style = Literal["free", "plain", "raw", "utf8"]

_UNESCAPED_ASCII: Final[Ranges] = ((0x20, 0x21), (0x23, 0x5B), (0x5D, 0x7F))
_SHORT: Final = {0x22: '"', 0x5C: "\\", 0x2F: "/", 8: "b", 12: "f", 10: "n", 13: "r", 9: "t"}
# first code point, last, radices of the bytes, the first byte's offset
_UTF8: Final = (
    (0x80, 0x7FF, (32, 64), 0xC0),
    (0x800, 0xD7FF, (16, 64, 64), 0xE0),
    (0xE000, 0xFFFF, (16, 64, 64), 0xE0),
    (0x10000, 0x10FFFF, (8, 64, 64, 64), 0xF0),
)
_BACKSLASH: Final[Ranges] = ((0x5C, 0x5C),)
_U: Final[Ranges] = ((0x75, 0x75),)
_D: Final[Ranges] = ((0x44, 0x44), (0x64, 0x64))
_RAW: Final[Ranges] = ((0, 0x3FFFF),)
_ESCAPED_IF_PLAIN: Final[Ranges] = ((0, 0x1F), (0x7F, 0xD7FF), (0xE000, 0x10FFFF))


@dataclass(frozen=True, slots=True)
class _EncodingTrie:
    """The trie of the encodings of one character of several sets, innermost states first. A target is a state of the
    trie, or, as -1 - n, the state after a character of set n."""

    states: tuple[tuple[Edge, ...], ...]
    start: tuple[Edge, ...]


def string(graph: Graph, language: RangeDfa, following: int, *, style: Style = "plain") -> int:
    """The state before a string of the language, quotes included; `following` is the state after the closing quote."""
    return graph.state([(QUOTE, QUOTE, string_body(graph, language, following, style=style))])


def string_body(graph: Graph, language: RangeDfa, following: int, *, style: Style = "plain") -> int:
    """The same, after the opening quote."""
    states = [graph.reserve() for _ in language.rows]
    for state, (edges, last) in enumerate(_encode(graph, language, states, style)):
        graph.fill(states[state], [*edges, (QUOTE, QUOTE, following)] if last else edges)
    return states[language.start]


def name_trie(graph: Graph, names: Sequence[tuple[str, int]], at: int) -> int:
    """The trie of distinct printable ASCII names with a common prefix of length `at`, after the opening quote; each
    ends in its closing quote and its own state."""
    shared = shared_length(min(names)[0], max(names)[0])
    grouped: dict[str, list[tuple[str, int]]] = {}
    for name, after_name in names:
        grouped.setdefault(name[shared : shared + 1], []).append((name, after_name))
    edges = [
        (ord(char), ord(char), name_trie(graph, group, shared + 1)) if char else (QUOTE, QUOTE, group[0][1])
        for char, group in grouped.items()
    ]
    return graph.word(names[0][0][at:shared].encode("ascii"), graph.state(edges))


def utf8_text(graph: Graph, language: RangeDfa) -> int:
    """The language in UTF-8 without quotes and escapes; its words end the text."""
    states = [graph.reserve() for _ in language.rows]
    for state, (edges, last) in enumerate(_encode(graph, language, states, "utf8")):
        graph.fill(states[state], edges, accepting=last)
    return states[language.start]


def characters(graph: Graph, ranges: Ranges, target: int) -> list[Edge]:
    """Edges over the characters of the ranges, in UTF-8."""
    return _add_states(graph, _encoding_trie((ranges,), "utf8"), [target])


def _encode(graph: Graph, language: RangeDfa, states: Sequence[int], style: Style) -> Iterator[tuple[list[Edge], bool]]:
    """The edges of every state of the language with characters encoded, and whether the state accepts."""
    for row, last in zip(language.rows, language.accepting, strict=True):
        by_target: dict[int, list[tuple[int, int]]] = {}
        for first, after, target in row:
            by_target.setdefault(target, []).append((first, after))
        trie = _encoding_trie(tuple(tuple(ranges) for ranges in by_target.values()), style)
        yield _add_states(graph, trie, [states[target] for target in by_target]), last


def _add_states(graph: Graph, trie: _EncodingTrie, ends: Sequence[int]) -> list[Edge]:
    """Add the states of the trie and return its first edges; `ends` follow the characters of its sets."""
    made: list[int] = []
    for edges in trie.states:
        made.append(graph.state([(a, b, made[t] if t >= 0 else ends[-1 - t]) for a, b, t in edges]))
    return [(a, b, made[t] if t >= 0 else ends[-1 - t]) for a, b, t in trie.start]


@lru_cache(maxsize=4096)
def _encoding_trie(sets: tuple[Ranges, ...], style: Style) -> _EncodingTrie:
    numbers: dict[tuple[Edge, ...], int] = {}
    encoded = [(encoding, -1 - index) for index, ranges in enumerate(sets) for encoding in _encodings(ranges, style)]
    return _EncodingTrie(start=_trie(encoded, numbers), states=tuple(numbers))


def _trie(encoded: Sequence[tuple[ByteEncoding, int]], numbers: dict[tuple[Edge, ...], int]) -> tuple[Edge, ...]:
    """Encodings first differ where their byte sets are disjoint (see `digit_ranges`), so the trie is deterministic."""
    grouped: dict[Ranges, list[tuple[ByteEncoding, int]]] = {}
    for encoding, end in encoded:
        grouped.setdefault(encoding[0], []).append((encoding[1:], end))
    edges: list[Edge] = []
    for labels, rest in grouped.items():
        target = rest[0][1] if not rest[0][0] else numbers.setdefault(_trie(rest, numbers), len(numbers))
        edges.extend((first, last, target) for first, last in labels)
    return coalesce(edges)


def _encodings(ranges: Ranges, style: Style) -> tuple[ByteEncoding, ...]:
    return _utf8(ranges) if style == "utf8" else _json(ranges, style)


@lru_cache(maxsize=4096)
def _json(ranges: Ranges, style: Style) -> tuple[ByteEncoding, ...]:
    """Every encoding of the characters inside a JSON string."""
    ranges = intersect(ranges, _RAW) if style == "raw" else ranges
    encodings = list(_utf8(intersect(ranges, ((0x80, 0x10FFFF),))))
    if ascii_bytes := intersect(ranges, _UNESCAPED_ASCII):
        encodings.append((ascii_bytes,))
    if shorts := tuple((ord(sign), ord(sign)) for code, sign in sorted(_SHORT.items()) if contains(ranges, code)):
        encodings.append((_BACKSLASH, tuple(sorted(shorts))))
    escaped = {"free": ranges, "plain": intersect(ranges, _ESCAPED_IF_PLAIN)}
    for first, last in escaped.get(style, ()):
        encodings.extend(_escaped(first, last))
    return tuple(encodings)


@lru_cache(maxsize=4096)
def _utf8(ranges: Ranges) -> tuple[ByteEncoding, ...]:
    encodings: list[ByteEncoding] = [(((first, last),),) for first, last in intersect(ranges, ((0, 0x7F),))]
    for low, high, radices, lead in _UTF8:
        for first, last in intersect(ranges, ((low, high),)):
            for digits in digit_ranges(first, last, radices):
                (a, b), *rest = digits
                continuation = tuple(((0x80 + c, 0x80 + d),) for c, d in rest)
                encodings.append((((lead + a, lead + b),), *continuation))
    return tuple(encodings)


def _escaped(first: int, last: int) -> Iterator[ByteEncoding]:
    """`\\uXXXX` of the code points first..last; surrogate pairs beyond the basic plane."""
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
