"""Names of models with wildcards, such as `gpt-*`: `*` represents any characters, also none.

Matching takes linear time in the length of the name, however many wildcards there are.
"""

from dataclasses import dataclass
from typing import Final

WILDCARD: Final = "*"


@dataclass(frozen=True, slots=True)
class ModelPattern:
    """One name with at least one wildcard."""

    text: str

    def matches(self, name: str) -> bool:
        """Whether the name is one of those that the pattern represents."""
        first, *middle, last = self.text.split(WILDCARD)
        at, end = len(first), len(name) - len(last)
        if at > end or not name.startswith(first) or not name.endswith(last):
            return False
        for part in middle:
            at = name.find(part, at, end)
            if at < 0:
                return False
            at += len(part)
        return True


def split_patterns(names: frozenset[str]) -> tuple[frozenset[str], tuple[ModelPattern, ...]]:
    """The names without wildcards, and the patterns in alphabetical order."""
    patterns = {name for name in names if WILDCARD in name}
    return names - patterns, tuple(map(ModelPattern, sorted(patterns)))
