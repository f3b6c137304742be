"""The GPU benchmark: every section runs in small on a CPU, and one that fails loses no other."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu.__main__ import main, run
from benchmarks.gpu.dispatch_counts import DispatchCounts
from benchmarks.gpu.sections import SECTIONS, Bench

CPU = torch.device("cpu")


@pytest.mark.slow
def test_all_sections_run_in_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the library's compiled `generate()`, which takes minutes to compile. Our own passes are traced only."""
    whole = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **options: whole(function, backend="eager", **options))
    file = tmp_path / "gpu.json"
    sections = {name: each for name, each in SECTIONS.items() if "generate() compiled" not in name}
    found = run(Bench(device=CPU, is_small=True), sections, file, seconds=3000.0)
    assert json.loads(file.read_text()) == found
    assert not [each for each in found.values() if "error" in each]
    parity = found["parity of a small model"]
    assert parity["CPU = device"] == parity["together = alone"] == parity["of answers"]
    for rows in (1, 4, 16):
        step = found[f"step at {rows} rows"]
        assert min(step[f"{name} ms"] for name in ("step", "model", "model beside a seal", "sampler")) > 0.0
        ratio = step["step ms"] / found["build"]["sweep of the weights ms"]
        assert step["step of the sweep of the weights"] == pytest.approx(ratio, rel=0.01)
    assert found["compiled passes"]["1 rows: step ms"] > 0.0
    assert found["compiled passes"]["4 rows: model beside a seal ms"] > 0.0


def test_a_section_that_fails_or_has_no_time_left_does_not_stop_the_others(tmp_path: Path) -> None:
    def failing(_bench: Bench) -> dict[str, Any]:
        raise RuntimeError("out of memory")

    sections = {"one": (0.0, failing), "two": (1e9, dict), "three": (0.0, lambda _bench: {"figure": 1})}
    found = run(Bench(device=CPU, is_small=False), sections, tmp_path / "gpu.json", seconds=100.0)
    assert "out of memory" in found["one"]["error"]
    assert "skipped" in found["two"]
    assert found["three"]["figure"] == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_released_shape_is_refused_without_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--json", str(tmp_path / "gpu.json")])
    assert "--small" in capsys.readouterr().err


def test_views_launch_nothing_and_copies_do() -> None:
    with DispatchCounts("cpu") as counts:
        whole = torch.zeros(4, 6)
        whole.reshape(24).view(2, 12)
        assert counts.launches.total() == 1
        whole.t().reshape(24)
    assert counts.launches.total() == 2
    assert counts.moved == 3 * 4 * 24
