from collections.abc import Iterable, Sequence
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

VERSION: int

_Edge = tuple[int, int, int]

def coalesce(edges: Iterable[_Edge], /) -> tuple[_Edge, ...]: ...
def overlay(rows: Sequence[Sequence[_Edge]], /) -> list[tuple[int, int, tuple[int, ...]]]: ...
def state(
    rows: list[tuple[_Edge, ...]],
    accepting: list[bool],
    max_states: int,
    known: dict[tuple[bool, tuple[_Edge, ...]], int],
    edges: Iterable[_Edge],
    accepts: bool,
    /,
) -> int: ...
def union(
    rows: list[tuple[_Edge, ...]],
    accepting: list[bool],
    max_states: int,
    unions: dict[tuple[int, ...], int],
    states: Iterable[int],
    /,
) -> int: ...
def intersect(
    rows: list[tuple[_Edge, ...]],
    accepting: list[bool],
    max_states: int,
    pairs: dict[tuple[int, int], int],
    left: int,
    right: int,
    /,
) -> int: ...
def paste(
    rows: list[tuple[_Edge, ...]],
    accepting: list[bool],
    max_states: int,
    block: tuple[tuple[_Edge, ...], ...],
    following: int,
    /,
) -> int: ...
@overload
def minimise(
    rows: Sequence[Sequence[_Edge]], accepting: Sequence[bool], start: int, as_arrays: Literal[False], /
) -> tuple[tuple[tuple[_Edge, ...], ...], tuple[bool, ...]] | None: ...
@overload
def minimise(
    rows: Sequence[Sequence[_Edge]], accepting: Sequence[bool], start: int, as_arrays: Literal[True], /
) -> tuple[bytes, bytes, bytes] | None: ...
def text_order(trie: tuple[Any, ...], /) -> bytes: ...
def walk(automaton: tuple[Any, ...], trie: tuple[Any, ...], text_base: int, /) -> bytes: ...
def backward(
    values: NDArray[np.float64],
    scores: NDArray[np.float64],
    transitions: tuple[NDArray[np.int32], ...],
    states: int,
    labels: int,
    sums: bool,
    /,
) -> None: ...
