"""The figures of the compiler benchmark are correct for three handwritten schemas."""

import json
from pathlib import Path

import pytest

from benchmarks.constraints_compile import Row, failures, main, measure, summed

KEPT = {
    "split": "made",
    "schema": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {}}},
    "tests": [{"valid": True, "data": {"b": 1, "a": 2}}, {"valid": False, "data": {"a": "x"}}],
}
CHECKED = {"split": "made", "schema": {"uniqueItems": True}, "tests": [{"valid": False, "data": [1, 1]}]}
REFUSED = {"split": "made", "schema": {"$ref": "https://example.org"}, "tests": []}


def test_rows_tell_kept_checked_and_refused_apart() -> None:
    """Valid instances are tested in normal form, in any order of their members."""
    kept, checked, refused = (measure(case) for case in (KEPT, CHECKED, REFUSED))
    assert (kept.refused, kept.needs_check, kept.instances) == (None, (), (1, 1, 0, 1))
    assert (checked.needs_check, checked.instances, checked.unsound) == (("uniqueItems",), (0, 0, 1, 1), False)
    assert refused.refused == "$ref"
    whole = summed([kept, checked, refused])
    assert (whole.compiled, whole.with_check, whole.refused) == (1, 1, {"$ref": 1})


def test_instances_without_their_format_are_counted_apart() -> None:
    """A `format` may be an annotation, so they count neither as valid nor as invalid."""
    tests = [{"valid": True, "data": "2024-02-29"}, {"valid": True, "formats": False, "data": "v1"}]
    row = measure({"split": "made", "schema": {"type": "string", "format": "date"}, "tests": tests})
    assert (row.instances, row.without_formats) == ((1, 1, 0, 0), (0, 1))


def test_missed_budgets_are_named() -> None:
    """Shares by split; times and soundness over all."""
    good = Row(split="easy", ms=10.0, states=5)
    splits = {"easy": summed([good] * 9 + [Row(split="easy", ms=9000.0, refused="$ref")])}
    splits["all"] = splits["easy"]
    assert failures(splits) == ["easy: 90.0% compile", "p95 9000 ms"]
    slow = summed([Row(split="Large", ms=9000.0, states=5)] * 3 + [Row(split="Large", ms=1.0, refused="$ref")] * 2)
    assert failures({"Large": slow, "all": slow}) == ["Large: 60.0% compile"]
    silent = summed(
        [Row(split="Large", ms=1.0, truncated=truncated, instances=(1, 9, 0, 0)) for truncated in (True, False)]
    )
    assert failures({"Large": silent, "all": silent}) == ["8 of 9 rejected and not reported"]
    strict = summed([Row(split="easy", ms=1.0, states=5, instances=(9, 10, 0, 0))])
    assert failures({"easy": strict, "all": strict}) == ["9 of 10 valid instances accepted"]
    unsound = Row(split="easy", ms=10.0, states=5, instances=(0, 0, 1, 1))
    assert failures({"easy": summed([good]), "all": summed([unsound])}) == ["1 unsound"]


def test_the_command_writes_its_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The benchmark fails with `--check`; its duration is not tested."""
    monkeypatch.setattr("benchmarks.constraints_compile.P50_BUDGET_MS", 60_000.0)
    monkeypatch.setattr("benchmarks.constraints_compile.P95_BUDGET_MS", 60_000.0)
    disputed = {**KEPT, "python_jsonschema_agrees_with_tests": False}
    file, figures = tmp_path / "schemas.jsonl", tmp_path / "figures.json"
    file.write_text("\n".join(json.dumps(case) for case in (KEPT, CHECKED, disputed)))
    assert main([str(file), "--check", "--json", str(figures)]) == 0
    assert json.loads(figures.read_text())["made"]["schemas"] == 2
    file.write_text(json.dumps(REFUSED))
    assert main([str(file), "--check"]) == 1
    assert "0.0% compile" in capsys.readouterr().out
