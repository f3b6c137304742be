"""The demo's exit code is what the tour deserved, and what cannot start says so in one line."""

from pathlib import Path

import pytest

from twolane.demo import command
from twolane.demo.case_types import Expectation, Row, anything
from twolane.demo.counters import Counters
from twolane.demo.expectations import Reply, Verdict

ROW = Row(asked="a", prompt="p", expect=Expectation(answer=anything()))
REPLY = Reply(status=200, text="x", elapsed_ms=1.0, headers={})
GOOD = Verdict(row=ROW, reply=REPLY, sent=1, complaints=())
BAD = Verdict(row=ROW, reply=REPLY, sent=1, complaints=("no",))
CALM = Counters(targets=(), fallbacks={}, lanes={("edits", "fast"): "serving"})
EJECTED = Counters(targets=(), fallbacks={}, lanes={("edits", "fast"): "ejected"})


def test_only_a_tour_without_any_complaint_ends_well() -> None:
    assert command.result_of([GOOD, GOOD], CALM) == 0
    assert command.result_of([GOOD, BAD], CALM) == 1
    assert command.result_of([GOOD], EJECTED) == 1
    assert command.result_of([], CALM) == 1


@pytest.mark.parametrize("option", ["--checkpoint", "--policy"])
def test_missing_files_are_one_line_and_exit_2(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text("{}")
    given = {"--checkpoint": str(tmp_path), "--policy": str(tmp_path / "config.json"), option: str(tmp_path / "none")}
    assert command.main([word for pair in given.items() for word in pair]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert option in told


def test_wrong_use_is_one_line_and_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        command.main(["--twice"])
    told = capsys.readouterr().err
    assert (stop.value.code, told.count("\n")) == (2, 1)
    assert "--twice" in told
