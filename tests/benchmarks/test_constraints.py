"""The constraint benchmark counts correctly and fails if a bar is missed."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import constraints, constraints_large
from benchmarks.constraints import figures_of, refused_figures, task_figures
from benchmarks.constraints_embedded import Embedded
from benchmarks.constraints_large import LargeRow, large_figures, measure_large
from benchmarks.constraints_rows import AnswerChecker, Refusal, Row
from benchmarks.constraints_steps import StepMs
from benchmarks.constraints_tables import splits_table
from benchmarks.constraints_tasks import FREE, KEPT, Method
from benchmarks.vocabularies import Words, paired
from diffusion_worker.constraints.inference.native import NATIVE


def row(**changes: object) -> Row:
    values: dict[str, object] = {
        "id": "a",
        "split": "easy",
        "has_check": False,
        "compile_ms": 20.0,
        "token_compile_ms": 10.0,
        "states": 5,
        "edges": 9,
        "shortest": 3,
        "answers": 6,
        "left_to_check": 0,
        "invalid": (),
        "step": StepMs(softmax=10.0, best=8.0, marginals=20.0, sample=5.0),
        "best_logprob": -3.0,
        "greedy": None,
    }
    return Row(**(values | changes))


def test_figures_are_ratios_to_the_softmax_and_counts_of_invalid_answers() -> None:
    """Compile time includes token compilation; sampling is separate."""
    figures = figures_of([row(), row(invalid=("{}", "[]"))])
    assert figures["compile, p50, ms"] == 30.0
    assert figures["best path, p50, x softmax"] == pytest.approx(0.8)
    assert figures["with marginals, p95, x softmax"] == pytest.approx(2.0)
    assert figures["joint sample on top, p50, x softmax"] == pytest.approx(0.5)
    assert figures["invalid answers"] == 2.0


def test_refusals_are_shares_of_their_splits() -> None:
    """The worst split counts, and harder ones have a bar of their own."""
    refusals = [Refusal(id="b", split=split, keyword="$ref") for split in ("easy", "Github_ultra")]
    rows = [row(), row(), row(split="trivial"), row(split="Github_ultra")]
    figures = refused_figures(rows, refusals)
    assert list(figures.values()) == [pytest.approx(1 / 3), 0.5]
    assert refused_figures([row(split="Github_hard")], []) == dict.fromkeys(figures, 0.0)
    assert set(figures) < set(constraints.BARS)


def test_a_split_has_three_counts() -> None:
    """Compiled, compiled with validation, refused by keyword."""
    rows = [row(), row(has_check=True, split="hard"), row(has_check=True, split="hard")]
    table = splits_table(rows, [Refusal(id="b", split="hard", keyword="$ref")])
    lines = list(zip(*(list(column.cells)[:5] for column in table.columns), strict=True))
    assert lines[0][:5] == ("easy", "1", "1", "0", "")
    assert lines[1][:5] == ("hard", "3", "0", "2", "$ref 1")
    assert lines[2][:5] == ("all", "4", "1", "2", "$ref 1")


@pytest.mark.parametrize(("lost", "won", "deviations"), [(0, 0, 0.0), (3, 1, 1.0), (9, 0, 3.0), (0, 4, -2.0)])
def test_what_a_schema_costs_is_held_against_chance(lost: int, won: int, deviations: float) -> None:
    """Answers that are right, or wrong, both ways say nothing."""
    verdicts = [(True, False)] * lost + [(False, True)] * won + [(True, True), (False, False)]
    free, kept = (
        Method(name=name, verdicts=each, passes=1.0, ms=1.0)
        for name, each in zip((FREE, KEPT), zip(*verdicts, strict=True), strict=True)
    )
    figures = task_figures([free, kept])
    assert list(figures.values()) == [pytest.approx(deviations)]
    assert set(figures) < set(constraints.BARS)


def test_the_embedded_checkpoint_is_measured_in_passes_of_it() -> None:
    """Half a pass is the bar of both figures."""
    figures = constraints.embedded_figures(Embedded(forward=8.0, best=1.0, step=4.0))
    assert list(figures.values()) == [0.125, 0.5]
    assert all(constraints.BARS[name] == 0.5 for name in figures)


@pytest.mark.skipif(NATIVE is None, reason="diffusion_worker.constraints.inference._native is not built")
def test_rows_over_a_large_vocabulary_are_held_against_their_softmax() -> None:
    """The host's part in ms, the row on a CPU in softmaxes; some schemas are measured with several rows."""
    times = {"softmax": 100.0, "host": 8.0, "host_with_temperature": 12.0, "row": 90.0}
    rows = [LargeRow(id="a", states=5, edges=9, several=several, **times) for several in (None, 2.0)]
    figures = large_figures(rows)
    assert figures["262k: host, p50, ms"] == 8.0
    assert figures["262k: row on a CPU, p95, x softmax"] == pytest.approx(0.9)
    assert figures["262k: four rows on two cores, p50, x one"] == 2.0
    assert {name for name in constraints.BARS if name.startswith("262k")} < set(figures)


def test_schemas_that_were_measured_are_not_measured_again(tmp_path: Path) -> None:
    schemas, kept = tmp_path / "schemas.jsonl", tmp_path / "rows.jsonl"
    lines = [json.dumps({"id": name, "schema": {"enum": [name]}}) for name in ("a", "b")]
    rows = []
    for count in (1, 2):
        schemas.write_text("\n".join(lines[:count]))
        rows += list(measure_large(schemas, constraints.shipped(), limit=None, kept=kept))
    assert [row.id for row in rows] == ["a", "a", "b"]
    assert rows[0] == rows[1], "measured once"
    assert len(kept.read_text().splitlines()) == 2


@pytest.mark.parametrize(("host", "is_built", "code"), [(8.0, True, 0), (80.0, True, 1), (8.0, False, 1)])
def test_the_check_of_a_large_vocabulary_fails_if_a_bar_is_missed_or_nothing_is_measured(
    host: float, is_built: bool, code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without the C module, there are no figures."""
    row = LargeRow(
        id="a", states=5, edges=9, softmax=100.0, host=host, host_with_temperature=12.0, row=90.0, several=2.0
    )
    monkeypatch.setattr(constraints, "measure_large", lambda *_, **__: [row])
    monkeypatch.setattr(constraints, "large", constraints.shipped)
    monkeypatch.setattr(constraints_large, "NATIVE", object() if is_built else None)
    report = tmp_path / "report.json"
    line = ["constraints", "schemas.jsonl", "--vocabulary", "shipped", "--only-large", "--check", "--json", str(report)]
    monkeypatch.setattr(sys, "argv", line)
    assert constraints.main() == code
    assert bool(json.loads(report.read_text())["figures"]) is is_built


def test_a_vocabulary_is_enlarged_by_pairs_of_its_tokens() -> None:
    words = paired(Words(tokens=(b"", b"a", b"b"), end_id=0, padding_id=0), 6)
    assert words.tokens[:3] == (b"", b"a", b"b")
    assert len(set(words.tokens)) == 6
    assert set(words.tokens[3:]) < {b"aa", b"ab", b"ba", b"bb"}


def test_an_invalid_answer_is_forgiven_only_where_a_final_check_follows() -> None:
    """The reference is jsonschema."""
    strict, checked = (
        AnswerChecker({"type": "integer"}, has_check=False),
        AnswerChecker({"type": "integer"}, has_check=True),
    )
    for checker in (strict, checked):
        checker.take("7")
        checker.take('"seven"')
    assert (strict.answers, strict.left_to_check, strict.invalid) == (2, 0, ['"seven"'])
    assert (checked.answers, checked.left_to_check, checked.invalid) == (2, 1, [])


def once(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which repeats its first result: a second measurement would take as long and show the same."""
    results: list[Any] = []

    def first(*given: Any) -> Any:
        if not results:
            results.append(function(*given))
        return results[0]

    return first


@pytest.mark.slow
def test_it_runs_and_its_exit_code_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One schema that compiles, one that cannot, on the shipped vocabulary; with bars that nothing can clear, 1."""
    file, report = tmp_path / "schemas.jsonl", tmp_path / "report.json"
    schemas = [{"type": "boolean"}, {"type": "string", "enum": [1]}]
    lines = [json.dumps({"id": str(n), "split": "easy", "schema": schema}) for n, schema in enumerate(schemas)]
    file.write_text("\n".join(lines))
    quick = ["--vocabulary", "shipped", "--seeds", "1", "--orders", "2"]
    monkeypatch.setattr(sys, "argv", ["constraints", str(file), "--check", "--json", str(report), *quick])
    monkeypatch.setattr(constraints, "BARS", {"invalid answers": 0.0})
    monkeypatch.setattr(constraints, "large", constraints.shipped)
    for name in ("measure", "methods"):
        monkeypatch.setattr(constraints, name, once(getattr(constraints, name)))
    assert constraints.main() == 0
    monkeypatch.setattr(constraints, "BARS", {"invalid answers": -1.0})
    assert constraints.main() == 1
    told = json.loads(report.read_text())
    assert [entry["id"] for entry in told["rows"]] == ["0"]
    assert [(entry["id"], entry["keyword"]) for entry in told["refused"]] == [("1", "type")]
    assert [entry["id"] for entry in told["large"]] == ["0"]
    assert [len(method["verdicts"]) for method in told["orders"]] == [2] * len(told["orders"])
    assert "canvas, within the schema" in capsys.readouterr().out
