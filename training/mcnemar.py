"""McNemar's exact test (McNemar 1947, Psychometrika 12) of paired answers: is one of two ways right more often?"""

import math
from collections.abc import Sequence


def p_value(better: int, worse: int) -> float:
    """McNemar's exact test, two-sided: the probability that chance alone splits the differing pairs at least this
    unevenly."""
    pairs = better + worse
    ways = sum(math.comb(pairs, count) for count in range(min(better, worse) + 1))
    return float(min(1.0, 2 * ways / 2**pairs))


def compared(before: Sequence[bool], after: Sequence[bool]) -> tuple[int, int, float]:
    """(right only after, right only before, p) of paired answers."""
    gained = sum(b and not a for a, b in zip(before, after, strict=True))
    lost = sum(a and not b for a, b in zip(before, after, strict=True))
    return gained, lost, p_value(gained, lost)
