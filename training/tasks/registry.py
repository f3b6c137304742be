"""Sample generators of the embedded checkpoint's tasks, by name."""

from types import MappingProxyType
from typing import Final

from training.tasks.commits import commit_subject
from training.tasks.orders import order
from training.tasks.out_of_distribution import unknown_instruction
from training.tasks.sample import Generator
from training.tasks.sudoku import sudoku

TASKS: Final[MappingProxyType[str, Generator]] = MappingProxyType(
    {"extraction": order, "sudoku": sudoku, "clean-up": commit_subject, "out-of-distribution": unknown_instruction}
)
