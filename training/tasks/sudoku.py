"""4x4 Sudoku: sixteen cells in one row, `_` for a blank, exactly one solution.

There are 288 solved grids; 40 of them are never trained on. They are relabellings and reflections of grids that are,
so this measures new grids, not a new kind of puzzle.
"""

import itertools
import random
from functools import cache

from training.tasks.sample import Sample, Split, Wish

PREFIX = "Solve this sudoku: "


def sudoku(rng: random.Random, wish: Wish) -> Sample:
    """A puzzle with six to ten blanks and its solution."""
    while True:
        grid = rng.choice(_grids(wish.split))
        blanks = set(rng.sample(range(16), rng.randint(6, 10)))
        puzzle = "".join("_" if i in blanks else digit for i, digit in enumerate(grid))
        if len(solutions(puzzle)) == 1:
            return Sample(prompt=PREFIX + puzzle, answer=grid)


def solutions(puzzle: str) -> list[str]:
    """All solved grids that agree with the given cells."""
    given = [(i, digit) for i, digit in enumerate(puzzle) if digit != "_"]
    return [grid for grid in _all_grids() if all(grid[i] == digit for i, digit in given)]


@cache
def _all_grids() -> tuple[str, ...]:
    rows = ["".join(p) for p in itertools.permutations("1234")]
    halves = [a + b for a, b in itertools.product(rows, repeat=2) if not set(a[:2]) & set(b[:2])]  # two boxes are right
    return tuple(top + bottom for top, bottom in itertools.product(halves, repeat=2) if _solved(top + bottom))


def _solved(grid: str) -> bool:
    columns = [grid[i::4] for i in range(4)]
    boxes = [grid[i] + grid[i + 1] + grid[i + 4] + grid[i + 5] for i in (0, 2, 8, 10)]
    return all(len(set(unit)) == 4 for unit in columns + boxes)


@cache
def _grids(split: Split) -> tuple[str, ...]:
    grids = list(_all_grids())
    random.Random(0).shuffle(grids)
    return tuple(grids[:248] if split == "train" else grids[248:])
