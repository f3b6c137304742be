"""The structure of a regular expression (ECMA 262): what it costs to compile, and the pattern of its prefixes.

The prefixes of a regular language are a regular language (its prefix closure), so one pattern tells whether a text that
was cut off can still become a match. What is not regular is widened: look-around and word boundaries are left out, a
back-reference stands for any text. A text is therefore never rejected although it can be continued.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

MAX_DEPTH: Final = 64  # of groups, as in the regex engine
MAX_PREFIX_CHARS: Final = 8192  # of the pattern of the prefixes; a longer one takes too long to compile
MAX_WEIGHT: Final = 10**9  # weights saturate here
UNKNOWN_WEIGHT: Final = 20_000  # of a pattern that cannot be parsed: as much as the engine's own limit allows
# Weights are compiled instructions, roughly: 10,000 take 20 ms and 1 MB.
_MAX_NESTED: Final = 8
_LITERAL_WEIGHT: Final = 2
_UNICODE_WEIGHT: Final = 500  # of a class such as \p{L}
_WIDE_WEIGHT: Final = 10  # of a class that contains most of Unicode
_QUANTIFIER: Final = re.compile(r"(?:([*+?])|\{([0-9]{1,9})(?:(,)([0-9]{1,9})?)?\})[?+]?")
_CHARACTER: Final = re.compile(
    r"\[\^?(?:[^\]\[\\]|\\.)+\]|\\[pP](?:\{[^}]*\}|.)|\\u(?:[0-9a-fA-F]{4}|\{[^}]*\})|\\x[0-9a-fA-F]{2}|\\c[a-zA-Z]"
    r"|\\[^0-9kAbBGKQEzZ]|\\0|[^\\\[()|*+?]",
    re.DOTALL,
)
_LITERALS: Final = re.compile(r"[\w ,:;/@#%&=<>!~'\"-]+(?![*+?{\w ,:;/@#%&=<>!~'\"-])")
_ONE_CLASS: Final = re.compile(rf"\^(?:{_CHARACTER.pattern})(?:{_QUANTIFIER.pattern})?\$", re.DOTALL)
_ZERO_WIDTH: Final = re.compile(r"[\^$]|\\[bBAzZG]")
_BACK_REFERENCE: Final = re.compile(r"\\[1-9][0-9]*|\\k(?:<\w+>|\{\w+\})|\(\?P=\w+\)")
_LOOK_AROUND: Final = re.compile(r"\(\?<?[=!]")
_GROUP: Final = re.compile(r"\((?:\?:|\?>|\?P?<\w+>|(\?[ims]*(?:-[ims]+)?:)|(?!\?))")
_FLAGS: Final = re.compile(r"\(\?[ims]*(?:-[ims]+)?\)")
_ANY_TEXT: Final = r"[\s\S]*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """A part of a pattern: a pattern that it implies, the pattern of the prefixes of that, and its weight."""

    full: str
    prefix: str
    weight: int = 0


class _Unknown(Exception):  # noqa: N818 - not an error of the request
    """The syntax is not known here; the regex engine decides about it."""


_EMPTY: Final = Pattern(full="", prefix="")


def weight_of(pattern: str) -> int:
    """The size of the compiled pattern in instructions, roughly. The engine counts the characters of `^[a-z]{1,99}$`
    and the like without compiling them."""
    if _ONE_CLASS.fullmatch(pattern):
        return _WIDE_WEIGHT
    parsed = parse(pattern, weigh_only=True)
    return UNKNOWN_WEIGHT if parsed is None else parsed.weight


def prefix_pattern(pattern: str) -> str | None:
    """A pattern that matches every prefix of every text that `pattern` matches as a whole; None for unknown syntax, and
    for a pattern of more than about 750 characters."""
    parsed = parse(pattern)
    return None if parsed is None or len(parsed.prefix) > MAX_PREFIX_CHARS else parsed.prefix


def parse(pattern: str, *, weigh_only: bool = False) -> Pattern | None:
    """None for syntax that is not known here. `weigh_only`: without the patterns, which take longer to write."""
    parser = _Parser(pattern, weigh_only=weigh_only)
    try:
        parsed = parser.alternatives(0)
    except _Unknown:
        return None
    return parsed if parser.at == len(pattern) else None


class _Parser:
    """Recursive descent over a pattern."""

    def __init__(self, source: str, *, weigh_only: bool) -> None:
        self._source = source
        self._weigh_only = weigh_only
        self.at = 0

    def alternatives(self, depth: int) -> Pattern:
        """Alternatives up to a closing bracket or the end."""
        if depth > MAX_DEPTH:
            raise _Unknown
        options = [self._sequence(depth)]
        while self._source.startswith("|", self.at):
            self.at += 1
            options.append(self._sequence(depth))
        weight = _bounded(sum(option.weight for option in options))
        if len(options) == 1 or self._weigh_only:
            return replace(options[0], weight=weight)
        full, prefix = "|".join(option.full for option in options), "|".join(option.prefix for option in options)
        return Pattern(full=f"(?:{full})", prefix=f"(?:{prefix})", weight=weight)

    def _sequence(self, depth: int) -> Pattern:
        parts: list[Pattern] = []
        while self.at < len(self._source) and self._source[self.at] not in "|)":
            literals = self._match(_LITERALS) if self._weigh_only else None
            if literals is not None:
                parts.append(Pattern(full="", prefix="", weight=_LITERAL_WEIGHT * len(literals[0])))
            else:
                parts.append(self._repeated(self._term(depth)))
        if self._weigh_only:
            return Pattern(full="", prefix="", weight=_bounded(sum(part.weight for part in parts)))
        return _joined(parts)

    def _repeated(self, part: Pattern) -> Pattern:
        found = self._match(_QUANTIFIER)
        if found is None:
            return part
        sign, low, comma, high = found.groups()
        least, most = (0 if sign in "*?" else 1, 1 if sign == "?" else None) if sign else (int(low), None)
        if not sign and (not comma or high):
            most = int(high or low)
        weight = _bounded(part.weight * max(1, least if most is None else most))
        if most == 0 or not part.full:
            return Pattern(full="", prefix="", weight=weight)
        times = "*" if most is None else f"{{0,{most - 1}}}"
        return Pattern(
            full=f"(?:{part.full}){sign or found[0].rstrip('?+')}",
            prefix=part.prefix if most == 1 else f"(?:(?:{part.full}){times}{part.prefix})",
            weight=weight,
        )

    def _term(self, depth: int) -> Pattern:
        if self._match(_ZERO_WIDTH):
            return _EMPTY
        if self._match(_BACK_REFERENCE):
            return Pattern(full=_ANY_TEXT, prefix=_ANY_TEXT, weight=_WIDE_WEIGHT)
        flags = self._match(_FLAGS)
        if flags is not None:
            return Pattern(full=flags[0], prefix="")
        is_look_around = self._match(_LOOK_AROUND) is not None
        opened = None if is_look_around else self._match(_GROUP)
        if not is_look_around and opened is None:
            return self._character()
        inside = self.alternatives(depth + 1)
        if not self._source.startswith(")", self.at):
            raise _Unknown
        self.at += 1
        if opened is None or self._weigh_only:
            return Pattern(full="", prefix="", weight=inside.weight)
        start = f"({opened[1] or '?:'}"
        return Pattern(full=f"{start}{inside.full})", prefix=f"{start}{inside.prefix})", weight=inside.weight)

    def _character(self) -> Pattern:
        found = self._match(_CHARACTER)
        if found is None:
            raise _Unknown
        if self._weigh_only:
            return Pattern(full="", prefix="", weight=_character_weight(found[0]))
        return Pattern(full=found[0], prefix=f"(?:{found[0]})?", weight=_character_weight(found[0]))

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = pattern.match(self._source, self.at)
        self.at = self.at if found is None else found.end()
        return found


def _joined(parts: Sequence[Pattern]) -> Pattern:
    """The parts in sequence. A few are nested in each other; more are joined in halves, because the engine limits how
    deeply groups are nested."""
    if not parts:
        return _EMPTY
    if len(parts) <= _MAX_NESTED:
        prefix = parts[-1].prefix
        for part in reversed(parts[:-1]):
            is_character = part.prefix == f"(?:{part.full})?"
            prefix = f"(?:{part.full}{prefix})?" if is_character else f"(?:{part.prefix}|{part.full}{prefix})"
        full, weight = "".join(part.full for part in parts), sum(part.weight for part in parts)
    else:
        left, right = _joined(parts[: len(parts) // 2]), _joined(parts[len(parts) // 2 :])
        prefix = f"(?:{left.prefix}|{left.full}{right.prefix})"
        full, weight = left.full + right.full, left.weight + right.weight
    return Pattern(full=full, prefix=prefix, weight=_bounded(weight))


def _character_weight(character: str) -> int:
    unicode_classes = character.count(r"\p") + character.count(r"\P")
    if unicode_classes:
        return unicode_classes * _UNICODE_WEIGHT
    is_wide = character == "." or character.startswith("[^") or character[:2] in (r"\D", r"\W", r"\S")
    return _WIDE_WEIGHT if is_wide else _LITERAL_WEIGHT + len(character) // 4


def _bounded(weight: int) -> int:
    return min(weight, MAX_WEIGHT)
