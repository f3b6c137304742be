"""The simulation benchmark measures the rate of simulated requests."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.golden_traces import HOME
from benchmarks.simulate import main


@pytest.mark.slow
def test_it_tells_a_rate_for_both_runs_and_holds_it_to_its_bar(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    line = ["simulate", str(HOME / "mixed.csv"), "--json", str(tmp_path / "rates.json"), "--check"]
    monkeypatch.setattr("sys.argv", line)
    monkeypatch.setattr("benchmarks.simulate.BAR", 1.0)
    assert main() == 0
    rates = json.loads((tmp_path / "rates.json").read_text())
    assert set(rates) == {"steady", "slowed"}
    assert f"steady: {rates['steady']:.0f} requests/s" in capsys.readouterr().out
    monkeypatch.setattr("benchmarks.simulate.BAR", 1e12)
    assert main() == 1
