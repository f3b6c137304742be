"""Random sentences from plain-text grammars, from which the prompts of every task are generated.

A file holds rules: a line `= name` opens one, each line after it is an alternative. In a line, «a|b» picks one of the
parts, ‹name› is filled by that rule or by a function of the same name, and \\n is a line break. Parts may nest.
Independent of tasks.
"""

import random
import re
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

Rules = dict[str, list[str]]
Filler = Callable[[random.Random], str]

_REFERENCE = re.compile(r"‹[^›]*›")
_WORD = re.compile(r"[^\W\d_]{2,}")


def read_rules(path: Path) -> Rules:
    """Read the rules of one file, in order."""
    rules: Rules = {}
    alternatives: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("= "):
            alternatives = rules.setdefault(line[2:].strip(), [])
        elif line.strip():
            alternatives.append(line.replace("\\n", "\n"))
    return rules


class Grammar:
    """A grammar: rules, and generator functions for content such as code, numbers and schemas."""

    def __init__(self, rules: Rules, fillers: Mapping[str, Filler]) -> None:
        self._rules = rules
        self._fillers = fillers
        lines = (line for alternatives in rules.values() for line in alternatives)
        self.words = [word for line in lines for word in _WORD.findall(_REFERENCE.sub(" ", line))]  # as often as used

    def expand(self, rng: random.Random, line: str) -> str:
        """A random expansion of a line. Raises KeyError for an unknown rule."""
        return self._run(rng, line, 0, "")[0]

    def _run(self, rng: random.Random, line: str, at: int, stop: str) -> tuple[str, int]:
        """Expand from `at` up to one of the characters in `stop`; returns the text and the end position."""
        parts: list[str] = []
        while at < len(line) and line[at] not in stop:
            if line[at] == "‹":
                end = line.index("›", at)
                parts.append(self._fill(rng, line[at + 1 : end]))
                at = end + 1
            elif line[at] == "«":
                text, at = self._pick(rng, line, at + 1)
                parts.append(text)
            else:
                parts.append(line[at])
                at += 1
        return "".join(parts), at

    def _pick(self, rng: random.Random, line: str, at: int) -> tuple[str, int]:
        """A random alternative, up to the closing mark. All are expanded, so that nesting needs no second parser."""
        choices = []
        while True:
            text, at = self._run(rng, line, at, "|»")
            choices.append(text)
            at += 1
            if line[at - 1] == "»":
                return rng.choice(choices), at

    def _fill(self, rng: random.Random, name: str) -> str:
        if name in self._fillers:
            return self._fillers[name](rng)
        return self.expand(rng, rng.choice(self._rules[name]))


def share_of(line: str) -> int:
    """A stable number in 0..9 for a line, used to hold out templates."""
    return zlib.crc32(line.encode()) % 10
