"""Splits contexts into the chunks that prefills take."""

from itertools import pairwise


def prefill_chunks_of(ids: tuple[int, ...], size: int, *, cut: int = 0) -> list[tuple[int, ...]]:
    """Split ids into chunks of at most `size`, with a chunk boundary after the first `cut` ids (0: none)."""
    borders = sorted({*range(0, cut, size), *range(cut, len(ids), size), len(ids)})
    return [ids[start:end] for start, end in pairwise(borders)]
