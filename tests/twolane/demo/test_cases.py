"""The rows keep what the tour promises: their answers follow from the tasks' own rules, and nothing is left unsaid."""

import itertools
import json
import re

import jsonschema
import pytest

from twolane.demo.case_types import Row, Scene
from twolane.demo.cases import TOUR
from twolane.demo.environment import FAULTS
from twolane.demo.prompts import ORDER_SCHEMA

ROWS = [row for chapter in TOUR for row in chapter.rows]
ANSWERED = [row for row in ROWS if row.expect.status == 200]


def named(rows: list[Row]) -> list[object]:
    return [pytest.param(row, id=row.asked) for row in rows]


@pytest.mark.parametrize("row", named(ROWS))
def test_every_row_fixes_its_seed(row: Row) -> None:
    assert "seed" in row.body


@pytest.mark.parametrize("row", named(ANSWERED))
def test_every_answered_row_states_route_target_and_attempts(row: Row) -> None:
    assert row.expect.route
    assert row.expect.target
    assert re.search(rf"(^|[,*]){row.expect.target}=ok$", row.expect.attempts)


@pytest.mark.parametrize("row", named(ANSWERED))
def test_a_row_states_a_fallback_exactly_if_it_expects_several_attempts(row: Row) -> None:
    assert bool(row.expect.fallback) == ("," in row.expect.attempts)


def test_at_least_five_rows_are_answered_by_the_fast_lane_at_once() -> None:
    assert sum(row.expect.attempts == "fast=ok" and row.scene is Scene.CALM and not row.until for row in ROWS) >= 5


def test_only_answers_of_the_quality_lane_need_smollm2() -> None:
    """Without it those rows are skipped; everything about the fast lane, rules and faults is still played."""
    needing = [row for row in ROWS if row.needs_smollm2]
    assert 0 < len(needing) <= 2
    assert all(row.expect.target == "quality" and row.scene is Scene.CALM for row in needing)


def test_titles_are_told_apart() -> None:
    assert len({row.asked for row in ROWS}) == len(ROWS)


def test_every_scene_is_played_and_known_to_the_stage() -> None:
    assert set(FAULTS) == set(Scene) == {row.scene for row in ROWS}


def test_the_tour_shows_what_it_must() -> None:
    """One row at least for each thing a reader was promised."""
    assert any("prediction" in row.body for row in ROWS)
    assert {row.stream for row in ROWS if "response_format" in row.body} == {True, False}
    assert any("fix stuff" in row.prompt and "low_confidence" in row.expect.fallback for row in ROWS)
    assert any("x-twolane-task" in row.headers for row in ROWS)
    assert any("x-twolane-private" in row.headers for row in ROWS)
    assert any(row.expect.status == 404 for row in ROWS)
    assert {"invalid_output", "p95_breach"} <= {row.expect.fallback for row in ROWS}


@pytest.mark.parametrize("row", named([row for row in ROWS if row.prompt.startswith("Solve this sudoku: ")]))
def test_a_sudoku_has_the_stated_solution_and_no_other(row: Row) -> None:
    puzzle = row.prompt.removeprefix("Solve this sudoku: ")
    (solution,) = solutions(puzzle)
    assert row.expect.answer.check(solution) is None


@pytest.mark.parametrize("row", named([row for row in ROWS if "Extract the order" in row.prompt]))
def test_an_orders_answer_is_made_of_words_of_its_message(row: Row) -> None:
    """Whatever object the rule accepts fits the schema; a wrong object it refuses."""
    assert row.body["response_format"]["json_schema"]["schema"] is ORDER_SCHEMA
    assert row.expect.status != 200 or row.expect.answer.check('{"name":"nobody"}')


@pytest.mark.parametrize("row", named([row for row in ROWS if row.expect.answer.says == "exact"]))
def test_exact_answers_are_told_from_others(row: Row) -> None:
    assert row.expect.answer.check("something else")


def test_the_order_schema_accepts_orders_and_missing_names() -> None:
    jsonschema.Draft202012Validator.check_schema(ORDER_SCHEMA)
    jsonschema.validate(json.loads('{"name":null,"qty":3,"item":"red lamp","day":null}'), ORDER_SCHEMA)


def solutions(puzzle: str) -> list[str]:
    """All solved 4x4 grids that agree with the puzzle, by trying every grid of permuted rows."""
    rows = ["".join(row) for row in itertools.permutations("1234")]
    fitting = [
        [row for row in rows if all(a in ("_", b) for a, b in zip(puzzle[4 * i : 4 * i + 4], row, strict=True))]
        for i in range(4)
    ]
    grids = ("".join(four) for four in itertools.product(*fitting))
    return [grid for grid in grids if _is_solved(grid)]


def _is_solved(grid: str) -> bool:
    columns = [grid[i::4] for i in range(4)]
    boxes = [grid[i] + grid[i + 1] + grid[i + 4] + grid[i + 5] for i in (0, 2, 8, 10)]
    return all(len(set(unit)) == 4 for unit in columns + boxes)
