"""Sets of integers as sorted, disjoint, inclusive ranges, and ranges of numbers as products of digit ranges."""

from collections.abc import Iterable, Iterator, Sequence

Ranges = tuple[tuple[int, int], ...]


def normalise(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Sorted and disjoint, adjacent ranges merged."""
    joined: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(joined[-1][1], last))
        else:
            joined.append((first, last))
    return tuple(joined)


def union(*sets: Ranges) -> Ranges:
    """The union of the sets."""
    return normalise(pair for ranges in sets for pair in ranges)


def subtract(ranges: Ranges, taken: Ranges) -> Ranges:
    """The set difference."""
    left: list[tuple[int, int]] = []
    for first, last in ranges:
        at = first
        for taken_first, taken_last in taken:
            if taken_last < at or taken_first > last:
                continue
            if taken_first > at:
                left.append((at, taken_first - 1))
            at = taken_last + 1
        if at <= last:
            left.append((at, last))
    return normalise(left)


def intersect(ranges: Ranges, others: Ranges) -> Ranges:
    """The intersection."""
    return subtract(ranges, subtract(ranges, others))


def contains(ranges: Ranges, value: int) -> bool:
    """Whether a value is in the set."""
    return any(first <= value <= last for first, last in ranges)


def digit_ranges(first: int, last: int, radices: Sequence[int]) -> Iterator[tuple[tuple[int, int], ...]]:
    """The numbers first..last, written with one digit per radix (most significant first), as products of digit ranges.

    Products of disjoint number ranges first differ at a digit whose ranges are disjoint, so they form a trie of ranges
    without splitting any.
    """
    if not radices:
        yield ()
        return
    size = 1
    for radix in radices[1:]:
        size *= radix
    (low, low_rest), (high, high_rest) = divmod(first, size), divmod(last, size)
    if low == high:
        for rest in digit_ranges(low_rest, high_rest, radices[1:]):
            yield ((low, low), *rest)
        return
    if low_rest:
        for rest in digit_ranges(low_rest, size - 1, radices[1:]):
            yield ((low, low), *rest)
        low += 1
    top = high if high_rest == size - 1 else high - 1
    if low <= top:
        yield ((low, top), *((0, radix - 1) for radix in radices[1:]))
    if top != high:
        for rest in digit_ranges(0, high_rest, radices[1:]):
            yield ((high, high), *rest)
