"""`twolane bench` parses its command line, reports statistics, and never loses measurements."""

import json
from pathlib import Path

import pytest

from twolane.bench import command
from twolane.bench.figures import figures
from twolane.bench.plan import Call, Prompt

URL = "http://127.0.0.1:9"


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "hi"}\n')
    return str(file)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (["ftp://x"], "'ftp://x' is not an http(s) URL"),
        ([URL, "--rate", "0"], "'0' must be a number above 0"),
        ([URL, "--rate", "nan"], "'nan' must be a number above 0"),
        ([URL, "--success", "1.5"], "1.5 must be at most 1"),
        ([URL, "--rate", "0.1", "--seconds", "0.1", "--arrivals", "constant"], "no request to send"),
        ([URL, "--arrivals", "log"], "must come from a decision log"),
        ([URL, "--report", "figures.exe"], "unsupported suffix (choose from .png"),
    ],
)
def test_wrong_use_is_reported_in_one_line(
    line: list[str], says: str, prompts: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = command.main([*line, "--prompts", prompts])
    except SystemExit as stop:
        code = stop.code  # type: ignore[assignment]
    error = capsys.readouterr().err
    assert code == 2
    assert says in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("url", ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"])
def test_a_url_is_accepted_with_and_without_v1(url: str) -> None:
    assert command.root_url(url) == "http://h:1"


@pytest.mark.slow
def test_a_load_without_any_success_fails_and_reports_statistics(
    prompts: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--json", str(tmp_path / "f.json"), "--report", str(tmp_path / "f.png")]
    assert command.main([URL, "--prompts", prompts, "--rate", "50", "--seconds", "0.1", *files]) == 1
    assert "no_connection" in capsys.readouterr().out
    written = json.loads((tmp_path / "f.json").read_text())
    assert written["answered"] == 0
    assert written["sent"] == written["errors"]["no_connection"] > 0
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")


def test_a_file_that_cannot_be_written_is_named(prompts: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = [URL, "--prompts", prompts, "--rate", "50", "--seconds", "0.1", "--json", "/no/such/folder/f.json"]
    assert command.main(line) == 2
    assert "/no/such/folder/f.json" in capsys.readouterr().err


def test_exceeded_limits_are_reported(prompts: str) -> None:
    options = command.parse([URL, "--prompts", prompts, "--p95-ms", "5", "--success", "0.99"])
    assert len(command.exceeded_limits(figures([]), options)) == 2
    assert options.calls[0] == Call(due_s=options.calls[0].due_s, prompt=Prompt(body=options.calls[0].prompt.body))
