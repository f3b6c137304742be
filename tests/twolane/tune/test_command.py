"""`twolane tune` parses its command line, resumes an interrupted run, and restores the worker."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from twolane.bench.load import LoadOptions
from twolane.process.flags import WrongUseError, free_port
from twolane.tune import command
from twolane.tune.store import TrialStore
from twolane.tune.trial import Offer, TunedWorker, read_offer

ROOT = Path(__file__).parents[3]
URL = "http://127.0.0.1:9"
PROMPT = '{"prompt": "Extract the order as JSON: please send 24 white clock to carla thanks", "expect": "x"}\n'


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    file = tmp_path / "prompts.jsonl"
    file.write_text(PROMPT)
    return str(file)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (["--vary", "step=1"], "unknown parameter 'step' (choose from max_num_seqs, steps"),
        (["--vary", "steps=1.5"], "--vary steps=1.5"),
        (["--matches", "("], "--matches"),
        (["--trials", "1"], "'1' is not a whole number of at least 2"),
        ([], "no worker responds"),
    ],
)
def test_wrong_use_is_reported_in_one_line(
    line: list[str], says: str, prompts: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = command.main([URL, "--prompts", prompts, "--out", str(tmp_path / "out"), *line])
    except SystemExit as stop:
        code = stop.code  # type: ignore[assignment]
    error = capsys.readouterr().err
    assert code == 2
    assert says in error
    assert error.count("\n") == 1


def test_prompts_without_a_correct_response_are_rejected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "hi"}\n')
    assert command.main([URL, "--prompts", str(file), "--out", str(tmp_path)]) == 2
    assert "prompt 1 needs `expect` or a schema" in capsys.readouterr().err
    assert command.parse([URL, "--prompts", str(file), "--out", str(tmp_path), "--matches", "h.*"]).matches


def test_canvases_that_the_worker_refuses_are_not_tried(prompts: str, tmp_path: Path) -> None:
    """They are longer than the checkpoint's, as far as the worker says its length."""
    options = command.parse([URL, "--prompts", prompts, "--out", str(tmp_path)])
    tuned = TunedWorker(load=options.load, admin_url=None, max_num_seqs=8, matches=None)
    for length, fitting in ((None, (32, 64, 128)), (64, (32, 64)), (16, None)):
        grid = command._usable_grid(options, tuned, length)
        assert grid.keys() == {
            "steps",
            "entropy_bound",
            "confidence_threshold",
            *(["canvas_length"] if fitting else []),
        }
        assert tuple(grid.get("canvas_length", ())) == (fitting or ())


def test_trials_of_other_inputs_are_not_reused(prompts: str, tmp_path: Path) -> None:
    options = command.parse([URL, "--prompts", prompts, "--out", str(tmp_path)])
    (tmp_path / "trials.json").write_text(json.dumps({"fingerprint": "other", "trials": []}))
    with pytest.raises(WrongUseError, match="choose another --out"):
        TrialStore(options.out, options.fingerprint())
    (tmp_path / "trials.json").write_text("{")
    with pytest.raises(WrongUseError, match="is not a file of trials"):
        TrialStore(options.out, options.fingerprint())


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A live worker with an admin port."""
    ports = [str(free_port()), str(free_port())]
    line = [sys.executable, "-m", "twolane", "worker", "--checkpoint", "checkpoints/twolane-tiny", "--threads", "1"]
    log = (tmp_path_factory.mktemp("worker") / "log").open("w")
    process = subprocess.Popen([*line, "--port", ports[0], "--admin-port", ports[1]], cwd=ROOT, stdout=log, stderr=log)
    url, admin = (f"http://127.0.0.1:{port}" for port in ports)
    transport = httpx.HTTPTransport(retries=600)  # connects again while the worker loads
    try:
        with httpx.Client(transport=transport, timeout=120) as client:
            while client.get(f"{url}/health").status_code != 200:
                assert process.poll() is None
        yield url, admin
    finally:
        process.terminate()
        process.wait(500)
        log.close()


@pytest.mark.slow
def test_a_live_worker_is_tuned_and_restored(worker: tuple[str, str], tmp_path: Path) -> None:
    url, admin = worker
    assert asyncio.run(read_offer(LoadOptions(url=url, model="diffusion"))) == Offer(
        canvas_length=64, modes=("verified", "autoregressive")
    )
    assert asyncio.run(read_offer(LoadOptions(url=url, model="diffusion:verified"))).modes == ()
    correct = '{"name":"carla","qty":24,"item":"white clock","day":null}'
    file = tmp_path / "prompts.jsonl"
    file.write_text(json.dumps(json.loads(PROMPT) | {"expect": correct}) + "\n")
    line = [url, "--admin", admin, "--prompts", str(file), "--out", str(tmp_path / "out"), "--rate", "8"]
    line += ["--seconds", "1", "--trials", "4", "--vary", "steps=1,8", "--vary", "max_num_seqs=1"]
    command = [sys.executable, "-m", "twolane", "tune", *line]
    first = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert first.returncode == 0, first.stdout + first.stderr
    assert {one.name for one in (tmp_path / "out").iterdir()} == {
        "trials.json", "pareto.png", "settings.env", "policy.yaml",
    }  # fmt: skip
    assert httpx.get(f"{url}/health", timeout=120).json()["max_num_seqs"] == 8
    trials = json.loads((tmp_path / "out" / "trials.json").read_text())["trials"]
    assert any(trial["parameters"]["max_num_seqs"] == 1 for trial in trials)
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False, env=os.environ)
    assert again.returncode == 0
    assert json.loads((tmp_path / "out" / "trials.json").read_text())["trials"] == trials  # no trial was repeated
