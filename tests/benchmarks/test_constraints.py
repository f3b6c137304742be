"""The constraint benchmark counts what it should and fails where a bar is missed."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import constraints
from benchmarks.constraints import Judge, Row, figures_of
from benchmarks.constraints_embedded import Embedded
from benchmarks.constraints_steps import StepMs


def row(**changes: object) -> Row:
    values: dict[str, object] = {
        "id": "a",
        "split": "easy",
        "compile_ms": 20.0,
        "lift_ms": 10.0,
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
    """Compiling counts with lifting, sampling by itself."""
    figures = figures_of([row(), row(invalid=("{}", "[]"))])
    assert figures["compile and lift, p50, ms"] == 30.0
    assert figures["best path, p50, x softmax"] == pytest.approx(0.8)
    assert figures["with marginals, p95, x softmax"] == pytest.approx(2.0)
    assert figures["joint sample, p50, x softmax"] == pytest.approx(0.5)
    assert figures["invalid answers"] == 2.0


def test_the_embedded_checkpoint_is_measured_in_passes_of_it() -> None:
    """Half a pass is the bar of both figures."""
    figures = constraints.embedded_figures(Embedded(forward=8.0, best=1.0, step=4.0))
    assert list(figures.values()) == [0.125, 0.5]
    assert all(constraints.BARS[name] == 0.5 for name in figures)


def test_an_invalid_answer_is_forgiven_only_where_a_final_check_follows() -> None:
    """The judge is jsonschema."""
    strict, checked = Judge({"type": "integer"}, has_check=False), Judge({"type": "integer"}, has_check=True)
    for judge in (strict, checked):
        judge.take("7")
        judge.take('"seven"')
    assert (strict.answers, strict.left_to_check, strict.invalid) == (2, 0, ['"seven"'])
    assert (checked.answers, checked.left_to_check, checked.invalid) == (2, 1, [])


@pytest.mark.slow
def test_it_runs_and_its_exit_code_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One schema that compiles, one that cannot, on the shipped vocabulary; with bars that nothing can clear, 1."""
    file, report = tmp_path / "schemas.jsonl", tmp_path / "report.json"
    schemas = [{"type": "boolean"}, {"type": "string", "enum": [1]}]
    lines = [json.dumps({"id": str(n), "split": "easy", "schema": schema}) for n, schema in enumerate(schemas)]
    file.write_text("\n".join(lines))
    arguments = ["constraints", str(file), "--check", "--json", str(report), "--vocabulary", "shipped", "--seeds", "1"]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr(constraints, "BARS", {"invalid answers": 0.0})
    assert constraints.main() == 0
    monkeypatch.setattr(constraints, "BARS", {"invalid answers": -1.0})
    assert constraints.main() == 1
    assert [entry["id"] for entry in json.loads(report.read_text())["rows"]] == ["0"]
    assert "6 answers from noise" in capsys.readouterr().out
