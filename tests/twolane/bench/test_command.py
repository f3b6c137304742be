"""`twolane bench` reads its line, tells what it found, and never loses what was measured."""

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
        (["ftp://x"], "'ftp://x' is not an http address"),
        ([URL, "--rate", "0"], "'0' is not a number above 0"),
        ([URL, "--rate", "nan"], "'nan' is not a number above 0"),
        ([URL, "--success", "1.5"], "1.5 is above 1"),
        ([URL, "--rate", "0.1", "--seconds", "0.1", "--arrivals", "constant"], "is not one request"),
        ([URL, "--arrivals", "log"], "only lines of a decision log"),
        ([URL, "--report", "figures.exe"], "a drawing ends in .png"),
    ],
)
def test_wrong_use_is_one_line(line: list[str], says: str, prompts: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = command.main([*line, "--prompts", prompts])
    except SystemExit as left:
        code = left.code  # type: ignore[assignment]
    told = capsys.readouterr().err
    assert code == 2
    assert says in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("url", ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"])
def test_an_address_is_taken_with_and_without_its_version(url: str) -> None:
    assert command.root_url(url) == "http://h:1"


def test_nothing_answered_is_a_failure_with_its_figures(
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


def test_a_bar_that_is_missed_is_said(prompts: str) -> None:
    wish = command.parse([URL, "--prompts", prompts, "--p95-ms", "5", "--success", "0.99"])
    assert len(command.misses(figures([]), wish)) == 2
    assert wish.calls[0] == Call(due_s=wish.calls[0].due_s, prompt=Prompt(body=wish.calls[0].prompt.body))
