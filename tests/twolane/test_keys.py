"""A key made by `twolane keys` is valid for gateway and worker, and is written nowhere."""

from pathlib import Path

import pytest

from twolane import keys
from twolane.process.api_keys import key_line, load_keys


def test_a_new_key_is_valid_and_stands_in_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "keys"
    for name in ("ann", "bob"):
        assert keys.main(["new", name, "--file", str(file)]) == 0
    key = capsys.readouterr().out.split()[1]
    assert key not in file.read_text()
    found = load_keys(file).find(key.encode())
    assert found is not None
    assert found.name == "bob"


def test_without_a_file_the_key_is_on_stdout_and_the_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert keys.main(["new", "ann"]) == 0
    printed = capsys.readouterr()
    assert printed.err.strip() == key_line("ann", printed.out.strip())


def test_flags_restrict_the_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "keys"
    flags = ["--scope", "ask", "--scope", "metrics", "--model", "auto", "--route", "edits", "--private-only"]
    flags += ["--location", "EU", "--location", "on-prem"]
    assert keys.main(["new", "ann", "--file", str(file), *flags]) == 0
    key = load_keys(file).find(capsys.readouterr().out.strip().encode())
    assert key is not None
    assert (key.scopes, key.models, key.routes, key.private_only) == ({"ask", "metrics"}, {"auto"}, {"edits"}, True)
    assert key.locations == {"eu", "on-prem"}


@pytest.mark.parametrize(
    "line", [["new", "a b"], ["new"], [], ["new", "ann", "--scope", "root"], ["new", "a", "--location", "a b"]]
)
def test_wrong_use_is_reported_in_one_line(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        keys.main(line)
    assert capsys.readouterr().err.count("\n") == 1


def test_a_name_has_one_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\nann sha256:" + "0" * 64)
    assert keys.main(["new", "ann", "--file", str(file)]) == 2
    assert "ann already has a key" in capsys.readouterr().err
    assert keys.main(["new", "bob", "--file", str(file)]) == 0
    assert len(load_keys(file)) == 2
