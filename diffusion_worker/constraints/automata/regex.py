"""A parser for the regular subset of ECMA 262 regular expressions.

Where ECMA 262 and Python's `re` (which validates) differ, the *narrow* reading takes what both accept and the *wide*
reading what either accepts: `\\d` is ASCII in the narrow reading and every Unicode digit in the wide one. Patterns that
must match are read narrowly, patterns that must not match widely, so that neither engine finds a violation. Back
references, look-behind, word boundaries, look-ahead inside an expression, flags and Unicode properties raise
NotRegular; the caller leaves such patterns to validation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from diffusion_worker.constraints.automata.ranges import Ranges, intersect, normalise, subtract

LAST: Final = 0x10FFFF
SCALARS: Final[Ranges] = ((0, 0xD7FF), (0xE000, LAST))
BEGIN: Final = LAST + 1  # boundary marker before the first character, so that `^` is an ordinary character
END: Final = LAST + 2

_NOT_ASCII: Final[Ranges] = ((0x80, LAST),)
_DIGITS: Final[Ranges] = ((48, 57),)
_WORDS: Final[Ranges] = ((48, 57), (65, 90), (95, 95), (97, 122))
_SPACES: Final[Ranges] = ((9, 13), (32, 32), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029))
_SPACES_BOTH: Final = normalise([*_SPACES, (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000)])
_SPACES_EITHER: Final = normalise([*_SPACES_BOTH, (0x1C, 0x1F), (0x85, 0x85), (0xFEFF, 0xFEFF)])
# letter: (narrow reading, wide reading)
_SHORTHANDS: Final[dict[str, tuple[Ranges, Ranges]]] = {
    "d": (_DIGITS, normalise([*_DIGITS, *_NOT_ASCII])),
    "w": (_WORDS, normalise([*_WORDS, *_NOT_ASCII])),
    "s": (_SPACES_BOTH, _SPACES_EITHER),
}
_ESCAPED: Final = {"t": 9, "n": 10, "v": 11, "f": 12, "r": 13}
_DOT: Final = (subtract(SCALARS, ((10, 10), (13, 13), (0x2028, 0x2029))), subtract(SCALARS, ((10, 10),)))
_MAX_REPEAT: Final = 4096


class NotRegular(Exception):  # noqa: N818 - says what happened; never leaves the compiler
    """A regular expression, or a part of one, that is not supported by the automaton compiler."""


@dataclass(frozen=True, slots=True)
class Chars:
    """One character of a set."""

    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Seq:
    """A concatenation; without parts: the empty word."""

    parts: tuple["Tree", ...]


@dataclass(frozen=True, slots=True)
class Alt:
    """An alternation."""

    parts: tuple["Tree", ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """A repetition; `high` None: unbounded."""

    part: "Tree"
    low: int
    high: int | None


@dataclass(frozen=True, slots=True)
class Look:
    """A look-ahead, positive or negative."""

    part: "Tree"
    wanted: bool


Tree = Chars | Seq | Alt | Repeat | Look
EMPTY: Final = Seq(())


def literal(text: str) -> Tree:
    """Exactly this text."""
    return Seq(tuple(Chars(((ord(char), ord(char)),)) for char in text))


@lru_cache(maxsize=1024)
def parse(pattern: str, *, wide: bool = False) -> Tree:
    """The syntax tree of an expression. Raises NotRegular, also for a malformed one."""
    parser = _Parser(pattern, wide)
    tree = parser.alternatives()
    if parser.at < len(pattern):
        raise NotRegular("unbalanced parenthesis")
    return tree


class _Parser:
    def __init__(self, pattern: str, wide: bool) -> None:
        self._pattern = pattern
        self._wide = wide
        self.at = 0

    def _peek(self, text: str) -> bool:
        return self._pattern.startswith(text, self.at)

    def _take(self, text: str) -> bool:
        found = self._peek(text)
        if found:
            self.at += len(text)
        return found

    def _next(self) -> str:
        if self.at >= len(self._pattern):
            raise NotRegular("unexpected end of the expression")
        self.at += 1
        return self._pattern[self.at - 1]

    def alternatives(self) -> Tree:
        options = [self._sequence()]
        while self._take("|"):
            options.append(self._sequence())
        return options[0] if len(options) == 1 else Alt(tuple(options))

    def _sequence(self) -> Tree:
        parts: list[Tree] = []
        while self.at < len(self._pattern) and self._pattern[self.at] not in "|)":
            parts.append(self._repeated(self._atom()))
        return parts[0] if len(parts) == 1 else Seq(tuple(parts))

    def _repeated(self, part: Tree) -> Tree:
        while (bounds := self._bounds()) is not None:
            if isinstance(part, Look):
                raise NotRegular("a repeated look-ahead")
            self._take("?")  # lazy: the same language
            if self._peek("+"):
                raise NotRegular("a possessive repetition")
            part = Repeat(part, *bounds)
        return part

    def _bounds(self) -> tuple[int, int | None] | None:
        for sign, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._take(sign):
                return bounds
        end = self._pattern.find("}", self.at)
        if not self._peek("{") or end < 0:
            return None
        low, comma, high = self._pattern[self.at + 1 : end].partition(",")
        if comma and not low and _is_number(high):
            raise NotRegular("a repetition without a lower bound")  # ECMA and Python differ
        if not _is_number(low) or (high and not _is_number(high)):
            return None  # a brace that is no quantifier is a literal
        self.at = end + 1
        upper = int(low) if not comma else int(high) if high else None
        if max(int(low), upper or 0) > _MAX_REPEAT or (upper is not None and upper < int(low)):
            raise NotRegular("a repetition that is too large or out of order")
        return int(low), upper

    def _atom(self) -> Tree:
        char = self._next()
        match char:
            case "(":
                return self._group()
            case "[":
                return Chars(self._class())
            case ".":
                return Chars(_DOT[self._wide])
            case "^":
                return Chars(((BEGIN, BEGIN),))
            case "$":
                end = Chars(((END, END),))
                return Alt((end, Seq((Chars(((10, 10),)), end)))) if self._wide else end
            case "\\":
                return Chars(self._escape(wide=self._wide))
            case "*" | "+" | "?":
                raise NotRegular("nothing to repeat")
        return Chars(((ord(char), ord(char)),))

    def _group(self) -> Tree:
        wanted: bool | None = None
        if self._take("?"):
            wanted = self._prefix()
        if wanted is False:
            self._wide = not self._wide  # negation exchanges the two readings
        tree = self.alternatives()
        if not self._take(")"):
            raise NotRegular("unbalanced parenthesis")
        if wanted is False:
            self._wide = not self._wide
        return tree if wanted is None else Look(tree, wanted)

    def _prefix(self) -> bool | None:
        """Parse what follows `(?`: None for a group, otherwise the polarity of the look-ahead."""
        if self._take(":"):
            return None
        if self._take("="):
            return True
        if self._take("!"):
            return False
        if self._peek("<") and not self._peek("<=") and not self._peek("<!") and ">" in self._pattern[self.at :]:
            self.at = self._pattern.index(">", self.at) + 1
            return None
        raise NotRegular("an unsupported group")

    def _class(self) -> Ranges:
        negated = self._take("^")
        wide = self._wide != negated
        if self._peek("]"):
            raise NotRegular("an empty character class")  # which ECMA and Python read differently
        members: list[tuple[int, int]] = []
        while not self._take("]"):
            first = self._member(wide)
            if self._peek("-") and not self._peek("-]") and _single(first):
                self.at += 1
                last = self._member(wide)
                if not _single(last) or last[0][0] < first[0][0]:
                    raise NotRegular("an invalid character range")
                first = ((first[0][0], last[0][0]),)
            members.extend(first)
        found = normalise(members)
        return subtract(SCALARS, found) if negated else intersect(SCALARS, found)

    def _member(self, wide: bool) -> Ranges:
        char = self._next()
        if char != "\\":
            return ((ord(char), ord(char)),)
        return ((8, 8),) if self._take("b") else self._escape(wide=wide)

    def _escape(self, *, wide: bool) -> Ranges:
        char = self._next()
        if (pair := _SHORTHANDS.get(char.lower())) is not None:
            return pair[wide] if char.islower() else subtract(SCALARS, pair[not wide])
        code = _ESCAPED.get(char)
        if char in "xu":
            code = self._hexadecimal(char)
        elif char == "0" and not self._pattern[self.at : self.at + 1].isdigit():
            code = 0
        elif code is None and (char.isalnum() or ord(char) >= 0x80):
            raise NotRegular(f"the escape \\{char}")
        code = ord(char) if code is None else code
        return ((code, code),)

    def _hexadecimal(self, kind: str) -> int:
        digits = self._pattern[self.at : self.at + (2 if kind == "x" else 4)]
        if len(digits) < 2 or any(digit not in "0123456789abcdefABCDEF" for digit in digits):
            raise NotRegular(f"the escape \\{kind}")
        self.at += len(digits)
        code = int(digits, 16)
        if 0xD800 <= code <= 0xDFFF:
            raise NotRegular("a surrogate")
        return code


def _single(ranges: Ranges) -> bool:
    return len(ranges) == 1 and ranges[0][0] == ranges[0][1]


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def parts_of(tree: Tree) -> Sequence[Tree]:
    """The parts of a concatenation, or the tree itself."""
    return tree.parts if isinstance(tree, Seq) else (tree,)


def relax(tree: Tree, repeats: int) -> Tree:
    """Replace repetitions above `repeats` by unbounded ones, which can only enlarge the language."""
    match tree:
        case Seq(parts):
            return Seq(tuple(relax(part, repeats) for part in parts))
        case Alt(parts):
            return Alt(tuple(relax(part, repeats) for part in parts))
        case Repeat(part, low, high):
            fits = low <= repeats and (high is None or high <= repeats)
            return Repeat(relax(part, repeats), min(low, repeats), high if fits else None)
    return tree
