"""Properties of Unicode in regular expressions, `\\p{Letter}` and `\\P{Lu}` in ECMA 262: categories and `ASCII`.

Python's `re` has none, so expressions are rewritten with the characters of the property, by the Unicode version of
`unicodedata`. Scripts and other properties are not in that module; they stay as they are, and `re` refuses them. So do
those of an expression with more than MAX_PROPERTIES: each of them takes up to 7 KB and 3 ms of `re`.
"""

import re
import unicodedata
from functools import cache, lru_cache
from itertools import groupby
from typing import Final

from diffusion_worker.constraints.automata.ranges import Ranges, normalise, subtract

# long names of general categories, from the aliases of property values in Unicode's PropertyValueAliases.txt
_LONG: Final = {
    "Letter": "L",
    "Cased_Letter": "LC",
    "Uppercase_Letter": "Lu",
    "Lowercase_Letter": "Ll",
    "Titlecase_Letter": "Lt",
    "Modifier_Letter": "Lm",
    "Other_Letter": "Lo",
    "Mark": "M",
    "Combining_Mark": "M",
    "Nonspacing_Mark": "Mn",
    "Spacing_Mark": "Mc",
    "Enclosing_Mark": "Me",
    "Number": "N",
    "Decimal_Number": "Nd",
    "digit": "Nd",
    "Letter_Number": "Nl",
    "Other_Number": "No",
    "Punctuation": "P",
    "punct": "P",
    "Connector_Punctuation": "Pc",
    "Dash_Punctuation": "Pd",
    "Open_Punctuation": "Ps",
    "Close_Punctuation": "Pe",
    "Initial_Punctuation": "Pi",
    "Final_Punctuation": "Pf",
    "Other_Punctuation": "Po",
    "Symbol": "S",
    "Math_Symbol": "Sm",
    "Currency_Symbol": "Sc",
    "Modifier_Symbol": "Sk",
    "Other_Symbol": "So",
    "Separator": "Z",
    "Space_Separator": "Zs",
    "Line_Separator": "Zl",
    "Paragraph_Separator": "Zp",
    "Other": "C",
    "Control": "Cc",
    "cntrl": "Cc",
    "Format": "Cf",
    "Private_Use": "Co",
    "Unassigned": "Cn",
}
MAX_PROPERTIES: Final = 100  # of one expression
_SCALARS: Final[Ranges] = ((0, 0xD7FF), (0xE000, 0x10FFFF))
_TOKEN: Final = re.compile(r"\\[pP]\{(?:(?:General_Category|gc)=)?(\w+)\}|\\.|\[|\]|.", re.DOTALL)


def without_properties(pattern: str) -> str:
    """The expression with every property that is known replaced by its characters; unchanged with more than
    MAX_PROPERTIES of them."""
    return _replaced(pattern) if 0 < pattern.lower().count("\\p{") <= MAX_PROPERTIES else pattern


@lru_cache(maxsize=64)
def _replaced(pattern: str) -> str:
    parts: list[str] = []
    inside = False  # a character class
    for found in _TOKEN.finditer(pattern):
        piece = found[0]
        ranges = None if found[1] is None else property_ranges(found[1])
        if ranges:
            ranges = subtract(_SCALARS, ranges) if piece[1] == "P" else ranges
            piece = _class_members(ranges) if inside else f"[{_class_members(ranges)}]"
        elif piece in ("[", "]"):
            inside = piece == "["
        parts.append(piece)
    return "".join(parts)


def property_ranges(name: str) -> Ranges:
    """The characters of a property, without surrogates; none: it is not known."""
    short = _LONG.get(name, name)
    if short == "ASCII":
        return ((0, 0x7F),)
    parts = ("Lu", "Ll", "Lt") if short == "LC" else (short,)
    return normalise([pair for kind, pairs in _categories().items() if kind.startswith(parts) for pair in pairs])


@cache
def _categories() -> dict[str, list[tuple[int, int]]]:
    """The characters of each general category of two letters. A look through all of Unicode takes 0.2 s."""
    found: dict[str, list[tuple[int, int]]] = {}
    at = 0
    for kind, group in groupby(map(unicodedata.category, map(chr, range(0x110000)))):
        size = sum(1 for _ in group)
        if kind != "Cs":
            found.setdefault(kind, []).append((at, at + size - 1))
        at += size
    return found


def _class_members(ranges: Ranges) -> str:
    return "".join(_member(first) if first == last else f"{_member(first)}-{_member(last)}" for first, last in ranges)


def _member(code: int) -> str:
    return f"\\x{code:02x}" if code < 0xA0 else chr(code)
