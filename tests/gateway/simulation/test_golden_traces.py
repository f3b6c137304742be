"""The files in policies/traces are what their script generates, results included."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks.golden_traces import HOME, PLAYED, main, write

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", name="made")
def make(tmp_path_factory: Any) -> Path:
    folder = tmp_path_factory.mktemp("traces")
    write(folder)
    return folder


@pytest.mark.parametrize("name", ["mixed.csv", "log.jsonl", *PLAYED])
def test_a_golden_file_is_up_to_date(made: Path, name: str) -> None:
    assert (made / name).read_text() == (HOME / name).read_text()


def test_a_file_that_differs_is_named(made: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    def copied(folder: Path) -> list[Path]:
        """What writing them again would give."""
        shutil.copytree(made, folder, dirs_exist_ok=True)
        return [folder / path.name for path in sorted(made.iterdir())]

    copied(tmp_path)
    (tmp_path / "policy.yaml").write_text((HOME / "policy.yaml").read_text())
    monkeypatch.setattr("benchmarks.golden_traces.HOME", tmp_path)
    monkeypatch.setattr("benchmarks.golden_traces.write", copied)
    monkeypatch.setattr("sys.argv", ["golden_traces", "--check"])
    assert main() == 0
    (tmp_path / "slip.json").write_text("{}")
    assert main() == 1
    assert capsys.readouterr().out.endswith("slip.json is out of date\n")
