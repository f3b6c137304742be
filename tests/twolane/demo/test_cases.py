"""The demo's cases expect complete results: exact responses follow from the rules of the tasks."""

import itertools
import json
import re

import jsonschema
import pytest

from twolane.demo.case_types import Api, Case, DemoFault
from twolane.demo.cases import GROUPS
from twolane.demo.environment import PROXY_FAULTS
from twolane.demo.prompts import ORDER_SCHEMA

CASES = [case for group in GROUPS for case in group.cases]
ANSWERED = [case for case in CASES if case.expect.status == 200]


def named(cases: list[Case]) -> list[object]:
    return [pytest.param(case, id=case.title) for case in cases]


@pytest.mark.parametrize("case", named(CASES))
def test_every_case_that_samples_sets_a_seed(case: Case) -> None:
    assert ("seed" in case.body) is (case.api is not Api.DECISION)


@pytest.mark.parametrize("case", named(ANSWERED))
def test_every_case_with_a_response_expects_route_target_and_attempts(case: Case) -> None:
    assert case.expect.route
    assert case.expect.target
    assert re.search(rf"(^|[,*]){case.expect.target}=ok$", case.expect.attempts)


@pytest.mark.parametrize("case", named(ANSWERED))
def test_a_case_expects_a_fallback_only_with_several_attempts(case: Case) -> None:
    assert bool(case.expect.fallback) == ("," in case.expect.attempts)


def test_at_least_five_cases_are_answered_by_the_fast_lane_on_the_first_attempt() -> None:
    calm = [case for case in CASES if case.fault is DemoFault.NONE and not case.repeat]
    assert sum(case.expect.attempts in ("fast=ok", "careful=ok") for case in calm) >= 5


def test_only_answers_of_the_quality_lane_need_smollm2() -> None:
    """Without it those cases are skipped; those about the fast lane, privacy and faults still run."""
    needing = [case for case in CASES if case.needs_smollm2]
    assert 0 < len(needing) <= 4
    assert all(case.expect.target == "quality" and case.fault is DemoFault.NONE for case in needing)


def test_titles_are_unique() -> None:
    assert len({case.title for case in CASES}) == len(CASES)


def test_every_fault_is_used_and_known_to_the_environment() -> None:
    assert set(PROXY_FAULTS) == set(DemoFault) == {case.fault for case in CASES}


def test_the_demo_covers_the_main_features() -> None:
    assert any("prediction" in case.body for case in CASES)
    assert {case.stream for case in CASES if "response_format" in case.body} == {True, False}
    assert any("fix stuff" in case.prompt and "low_confidence" in case.expect.fallback for case in CASES)
    assert any("x-twolane-task" in case.headers for case in CASES)
    assert any("x-twolane-private" in case.headers for case in CASES)
    assert any(case.expect.status == 404 for case in CASES)
    assert {case.api for case in CASES} == set(Api)
    assert any(";" in case.expect.answered_by for case in CASES)
    assert {"invalid_output", "p95_breach"} <= {case.expect.fallback for case in CASES}


@pytest.mark.parametrize("case", named([case for case in CASES if case.prompt.startswith("Solve this sudoku: ")]))
def test_a_sudoku_has_exactly_the_expected_solution(case: Case) -> None:
    puzzle = case.prompt.removeprefix("Solve this sudoku: ")
    (solution,) = solutions(puzzle)
    assert case.expect.answer.check(solution) is None


@pytest.mark.parametrize("case", named([case for case in CASES if "Extract the order" in case.prompt]))
def test_an_order_case_uses_the_order_schema_and_rejects_a_wrong_object(case: Case) -> None:
    assert case.body["response_format"]["json_schema"]["schema"] is ORDER_SCHEMA
    assert case.expect.status != 200 or case.expect.answer.check('{"name":"nobody"}')


@pytest.mark.parametrize("case", named([case for case in CASES if case.expect.answer.description == "exact"]))
def test_an_exact_rule_rejects_other_responses(case: Case) -> None:
    assert case.expect.answer.check("something else")


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
