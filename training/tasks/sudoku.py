"""The sudoku task: 4x4 grids as 16 characters, `_` for a blank, with exactly one solution.

Of the 288 solved grids, 40 are held out. They are relabellings and reflections of training grids, so the task measures
new grids, not a new kind of puzzle.
"""

import itertools
import random
from functools import cache

from training.tasks.sample import Sample, SampleSpec, Split

PREFIX = "Solve this sudoku: "


def sudoku(rng: random.Random, spec: SampleSpec) -> Sample:
    """A sample: a puzzle with six to ten blanks, and its solution."""
    while True:
        grid = rng.choice(_grids(spec.split))
        blanks = set(rng.sample(range(16), rng.randint(6, 10)))
        puzzle = "".join("_" if i in blanks else digit for i, digit in enumerate(grid))
        if len(solutions(puzzle)) == 1:
            return Sample(prompt=PREFIX + puzzle, answer=grid)


def solutions(puzzle: str) -> list[str]:
    """All solved grids that match the given cells."""
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
