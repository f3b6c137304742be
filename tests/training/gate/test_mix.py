"""The mixes of the gate: strangers for choosing and for measuring share nothing, and their answers are right."""

import json
import random
import re
from collections import Counter

import pytest

from training.gate import far, near
from training.gate.mix import CHOOSING, MEASURING
from training.gate.rows import Row, Third

ROWS = {mix.name: mix.rows(300) for mix in (CHOOSING, MEASURING)}


def of_family(family: str) -> list[Row]:
    found = [row for rows in ROWS.values() for row in rows if row.family == family]
    assert found
    return found


def test_a_mix_is_fixed_and_has_three_equal_parts() -> None:
    for mix in (CHOOSING, MEASURING):
        rows = ROWS[mix.name]
        assert Counter(row.third for row in rows) == dict.fromkeys(Third, 300)
        assert mix.rows(300) == rows


def test_strangers_for_choosing_and_for_measuring_share_no_family_and_no_prompt() -> None:
    assert not near.CHOSEN_ON.keys() & near.MEASURED_ON.keys()
    assert not far.CHOSEN_ON.keys() & far.MEASURED_ON.keys()
    assert {"Sudoku 9x9", "JSON repair", "other wordings B"} == near.MEASURED_ON.keys()
    strangers = [{row.prompt for row in rows if row.third is not Third.TRAINED} for rows in ROWS.values()]
    assert not strangers[0] & strangers[1]


def test_at_most_half_of_a_mix_can_be_answered_correctly_at_all() -> None:
    for rows in ROWS.values():
        known = [row for row in rows if row.third is Third.TRAINED or row.family.startswith("other wordings")]
        assert len(known) <= 0.5 * len(rows)


@pytest.mark.parametrize(("family", "height", "width"), [("Sudoku 6x6", 2, 3), ("Sudoku 9x9", 3, 3)])
def test_the_answer_of_a_sudoku_is_solved_and_agrees_with_its_given_digits(
    family: str, height: int, width: int
) -> None:
    size = height * width
    for row in of_family(family):
        puzzle, grid = row.prompt.removeprefix("Solve this sudoku: "), row.answer
        assert grid is not None
        assert len(puzzle) == len(grid) == size * size
        assert all(given in ("_", digit) for given, digit in zip(puzzle, grid, strict=True))
        lines = [grid[i * size : (i + 1) * size] for i in range(size)]
        columns = ["".join(line[i] for line in lines) for i in range(size)]
        boxes = [
            "".join(lines[top + i][left : left + width] for i in range(height))
            for top in range(0, size, height)
            for left in range(0, size, width)
        ]
        assert {"".join(sorted(unit)) for unit in (*lines, *columns, *boxes)} == {"123456789"[:size]}


def test_json_to_repair_is_broken_and_its_answer_is_not() -> None:
    for row in of_family("JSON repair"):
        assert row.answer is not None
        json.loads(row.answer)
        assert row.answer not in row.prompt


def test_another_wording_asks_for_the_answer_of_a_trained_task() -> None:
    for family in ("other wordings A", "other wordings B"):
        for row in of_family(family):
            assert row.answer
            assert not re.match(
                "Clean up this commit subject: |Extract the order as JSON: |Solve this sudoku: ", row.prompt
            )


def test_no_far_stranger_has_an_answer_and_all_fit_into_a_context() -> None:
    for rows in ROWS.values():
        assert {row.answer for row in rows if row.third is Third.FAR} == {None}
        assert max(len(row.prompt.encode()) for row in rows) < 1024


def test_a_family_draws_from_its_generator_alone() -> None:
    for families in (near.CHOSEN_ON, near.MEASURED_ON, far.CHOSEN_ON, far.MEASURED_ON):
        for family in families.values():
            assert family(random.Random(3)) == family(random.Random(3))


def test_the_far_strangers_differ_from_each_other() -> None:
    for rows in ROWS.values():
        prompts = [row.prompt for row in rows if row.third is Third.FAR and row.family != "short messages"]
        assert len(set(prompts)) >= 0.8 * len(prompts)
