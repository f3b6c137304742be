"""The files that `twolane tune` writes are valid input of the other commands."""

import io
from pathlib import Path

from rich.console import Console

from diffusion_worker.settings import read_settings
from gateway.policy_files.load import parse
from tests.twolane.tune.test_plan import trial
from twolane.tune.report import draw, environment_of, policy_of, table


def test_the_policy_is_valid_and_its_slo_is_above_the_measured_p95() -> None:
    policy = parse(
        policy_of(trial(80, 0.95, steps=8, confidence_threshold=0.02, anchor=0.4), url="http://h:1", model="diffusion"),
        file="tuned",
        environment={},
    )
    (target,) = policy.targets.values()
    assert dict(target.diffusion) == {"steps": 8, "confidence_threshold": 0.02, "anchor": 0.4}
    (lane,) = [lane for lane in policy.lanes if lane.slo is not None]
    assert lane.slo is not None
    assert lane.slo.p95_ms == 100


def test_a_policy_without_parameters_is_valid() -> None:
    assert parse(policy_of(trial(80, 0.95), url="http://h:1", model="diffusion"), file="tuned", environment={})
    verified = policy_of(trial(80, 0.95, decoding="verified"), url="http://h:1", model="diffusion")  # type: ignore[arg-type]
    assert parse(verified, file="tuned", environment={}).targets["fast"].model == "diffusion:verified"


def test_the_environment_sets_only_the_chosen_values_of_the_worker() -> None:
    """A worker that starts with them has them."""
    lines = environment_of(trial(80, 0.95, steps=8)).splitlines()
    assert all(line.startswith("#") for line in lines)
    chosen = environment_of(trial(80, 0.95, max_num_seqs=2, confidence_threshold=0.02, entropy_bound=0.3))
    settings = dict(line.split("=") for line in chosen.splitlines() if not line.startswith("#"))
    found = read_settings(["--checkpoint", "x"], settings)
    assert found.max_num_seqs == 2
    assert found.thresholds == {"confidence_threshold": 0.02, "entropy_bound": 0.3}


def test_the_table_marks_front_and_choice_and_the_plot_is_a_png(tmp_path: Path) -> None:
    chosen = trial(60, 0.9, steps=8)
    trials = [trial(100, 0.95), chosen, trial(200, 0.5, steps=4), trial(float("inf"), 0.0, steps=2)]
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table(trials, chosen))
    marks = {
        line.split("│")[2].strip(): line.split("│")[1].strip()
        for line in console.export_text().splitlines()
        if "│" in line
    }
    assert marks == {"worker defaults": "*", "steps 8": ">*", "steps 4": "", "steps 2": ""}
    draw(trials, chosen, tmp_path / "front.png")
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
