"""The two mixes of prompts of the gate's measurement, a third each of trained tasks, near and far strangers.

`CHOOSING` is for choosing features, weights and threshold, `MEASURING` for the figures. They share no family of
strangers, and their prompts of trained tasks come from different seeds.
"""

from dataclasses import dataclass
from typing import Final

from training.gate import far, near
from training.gate.rows import Family, Row, Third, rows_of, trained

_TRAINED: Final[dict[str, Family]] = {
    "extraction, known words": trained("extraction", 0.0),
    "extraction, invented words": trained("extraction", 1.0),
    "clean-up, known words": trained("clean-up", 0.0),
    "clean-up, invented words": trained("clean-up", 1.0),
    "Sudoku 4x4": trained("sudoku", 0.0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """The families of a mix."""

    name: str
    near: dict[str, Family]
    far: dict[str, Family]

    def rows(self, per_third: int) -> list[Row]:
        """`per_third` rows of each third, always the same ones."""
        return [
            *rows_of(_TRAINED, Third.TRAINED, per_third, self.name),
            *rows_of(self.near, Third.NEAR, per_third, self.name),
            *rows_of(self.far, Third.FAR, per_third, self.name),
        ]


CHOOSING: Final = Mix(name="choosing", near=near.CHOSEN_ON, far=far.CHOSEN_ON)
MEASURING: Final = Mix(name="measuring", near=near.MEASURED_ON, far=far.MEASURED_ON)
