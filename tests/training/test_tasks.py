"""The sample generators: every sample is correct by its task's rules, and test combinations do not occur in
training."""

import json
import random

import jsonschema
import pytest

from training.tasks import commits, orders, sudoku
from training.tasks.registry import TASKS
from training.tasks.sample import Sample, SampleSpec


def draw(task: str, count: int, **spec: object) -> list[Sample]:
    """`count` samples of a task from a fixed seed."""
    rng = random.Random(7)
    return [TASKS[task](rng, SampleSpec(**spec)) for _ in range(count)]  # type: ignore[arg-type]


@pytest.mark.parametrize("task", list(TASKS))
def test_the_same_seed_draws_the_same_samples(task: str) -> None:
    """A resumed run must use the same samples as an uninterrupted one."""
    assert draw(task, 20, invented=0.5) == draw(task, 20, invented=0.5)


@pytest.mark.parametrize("task", ["extraction", "sudoku", "clean-up"])
def test_no_answer_is_in_both_splits(task: str) -> None:
    """New combinations are new."""
    trained = {sample.answer for sample in draw(task, 2000)}
    tested = {sample.answer for sample in draw(task, 500, split="test")}
    assert not trained & tested


def test_every_order_fits_its_schema_and_says_its_values() -> None:
    """The message contains each value of the answer."""
    for sample in draw("extraction", 300, invented=0.5):
        answer = json.loads(sample.answer)
        jsonschema.validate(answer, orders.SCHEMA)
        message = sample.prompt.removeprefix(orders.PREFIX)
        assert all(str(value) in message for value in answer.values() if value is not None)


def test_every_sudoku_has_one_solution_and_it_is_the_answer() -> None:
    """Blanks are six to ten of sixteen."""
    for sample in draw("sudoku", 50):
        puzzle = sample.prompt.removeprefix(sudoku.PREFIX)
        assert sudoku.solutions(puzzle) == [sample.answer]
        assert 6 <= puzzle.count("_") <= 10


def test_there_are_288_solved_grids_as_is_known() -> None:
    """The count is a known fact about 4x4 Sudoku."""
    assert len(sudoku.solutions("_" * 16)) == 288


def test_a_clean_subject_keeps_every_invented_word_of_its_source() -> None:
    """Typing errors occur in known words only."""
    for sample in draw("clean-up", 300, invented=1.0):
        assert sample.prompt == commits.PREFIX + sample.source
        known = {*commits.VERBS, *commits.QUALITIES, "speed", "up", "in", "for", "from", "on"}
        invented = [word for word in sample.answer.split() if word not in known]
        assert all(word in sample.source.rstrip(".").lower().split() for word in invented)
