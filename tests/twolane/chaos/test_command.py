"""A chaos run counts what was lost and what came twice, and the product loses nothing."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from twolane.bench.load import OK, Sample
from twolane.bench.plan import Call, Prompt
from twolane.chaos import command
from twolane.chaos.clients import WRONG, Ended, judged
from twolane.chaos.plan import Deed, Trouble
from twolane.chaos.report import report
from twolane.demo.prompts import AS_ORDER

ROOT = Path(__file__).parents[3]
ENDED = Ended(trace="a", due_s=1.0, latency_s=0.5, outcome=OK, tries=1, first_outcome=OK, fallback=None, target="fast")
NO_MEMORY: tuple[dict[str, int], dict[str, int]] = ({}, {})


def test_a_request_that_ends_twice_or_badly_fails_a_run() -> None:
    assert report([ENDED], [], [], memory=NO_MEMORY).is_good(1.0)
    assert not report([ENDED, ENDED], [], [], memory=NO_MEMORY).is_good(0.5)
    bad = replace(ENDED, trace="b", outcome="timed_out")
    assert not report([ENDED, bad], [], [], memory=NO_MEMORY).is_good(0.999)
    assert not report([], [], [], memory=NO_MEMORY).is_good(0.5)


def test_an_answer_that_two_gateways_gave_is_found_in_their_logs(tmp_path: Path) -> None:
    logs = [tmp_path / "one", tmp_path / "two"]
    for log in logs:
        log.write_text(json.dumps({"trace": "a", "outcome": "ok"}) + '\n{"id": "to')
    found = report([ENDED], [], [*logs, tmp_path / "none"], memory=NO_MEMORY)
    assert (found.more_than_once, found.log_lines, found.torn_lines, found.unlogged) == (1, 2, 2, 0)
    assert report([replace(ENDED, trace="b")], [], logs, memory=NO_MEMORY).unlogged == 1


def test_a_trouble_is_charged_with_what_ended_badly_while_it_lasted() -> None:
    plan = [Trouble(at_s=at_s, seconds=1.0, part="redis", deed=Deed.KILL) for at_s in (0.5, 90.0)]
    found = report([replace(ENDED, outcome="cut_off")], plan, [], memory=NO_MEMORY)
    assert [bad for *_, bad in found.troubles] == [1, 0]


@pytest.mark.parametrize(
    ("body", "text", "outcome"),
    [
        (AS_ORDER, '{"name": "anna", "qty": 3, "item": "lamp", "day": null}', OK),
        (AS_ORDER, '{"name": "anna", "qty": 3}', WRONG),
        (AS_ORDER, '{"name": "anna", "qty": 3', WRONG),
        ({}, "fix", OK),
        ({}, " ", WRONG),
    ],
)
def test_an_answer_counts_only_if_it_is_one(body: dict[str, object], text: str, outcome: str) -> None:
    call = Call(due_s=0.0, prompt=Prompt(body=body))
    sample = Sample(call=call, sent_s=0.0, ended_s=1.0, first_s=None, outcome=OK, text=text)
    assert judged(sample) == outcome


@pytest.mark.parametrize("line", [["--seconds", "5"], ["--success", "2"], ["--rate", "-1"]])
def test_wrong_use_is_one_line(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.parse(line)
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_minute_of_chaos_loses_nothing(tmp_path: Path) -> None:
    file = tmp_path / "chaos.json"
    line = [sys.executable, "-m", "twolane", "chaos", "--seconds", "60", "--rate", "4", "--every", "4", "--json", file]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=1700, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(file.read_text())
    assert found["requests"] > 180
    assert len(found["troubles"]) >= 5
    assert found["unlogged"] < 10, "answers of clients and lines of logs are the same requests"


@pytest.mark.slow
def test_interrupted_it_leaves_nothing_running(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    line = [sys.executable, "-m", "twolane", "chaos", "--seconds", "60"]
    process = subprocess.Popen(line, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()  # it says what it will do, then starts
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode == 1
    left = [one for one in Path("/proc").glob("[0-9]*/environ") if f"TMPDIR={tmp_path}".encode() in _bytes(one)]
    assert not left


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""
