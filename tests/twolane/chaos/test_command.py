"""A chaos run counts failed and duplicate requests, and no request is lost."""

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
from twolane.chaos.clients import WRONG_RESPONSE, RequestResult, checked_outcome
from twolane.chaos.plan import FaultInjection, FaultKind
from twolane.chaos.report import report
from twolane.demo.prompts import AS_ORDER

ROOT = Path(__file__).parents[3]
RESULT = RequestResult(
    trace="a", due_s=1.0, latency_s=0.5, outcome=OK, attempts=1, first_outcome=OK, fallback=None, target="fast"
)
NO_MEMORY: tuple[dict[str, int], dict[str, int]] = ({}, {})


def test_a_failed_or_duplicate_request_fails_a_run() -> None:
    assert report([RESULT], [], [], memory=NO_MEMORY).passed(1.0)
    assert not report([RESULT, RESULT], [], [], memory=NO_MEMORY).passed(0.5)
    bad = replace(RESULT, trace="b", outcome="timed_out")
    assert not report([RESULT, bad], [], [], memory=NO_MEMORY).passed(0.999)
    assert not report([], [], [], memory=NO_MEMORY).passed(0.5)


def test_a_request_that_two_gateways_answered_is_found_in_their_logs(tmp_path: Path) -> None:
    logs = [tmp_path / "one", tmp_path / "two"]
    for log in logs:
        log.write_text(json.dumps({"trace": "a", "outcome": "ok"}) + '\n{"id": "to')
    found = report([RESULT], [], [*logs, tmp_path / "none"], memory=NO_MEMORY)
    assert (found.duplicates, found.log_lines, found.partial_log_lines, found.unlogged) == (1, 2, 2, 0)
    assert report([replace(RESULT, trace="b")], [], logs, memory=NO_MEMORY).unlogged == 1


def test_a_fault_counts_the_requests_that_failed_during_it() -> None:
    plan = [FaultInjection(at_s=at_s, seconds=1.0, part="redis", kind=FaultKind.KILL) for at_s in (0.5, 90.0)]
    found = report([replace(RESULT, outcome="connection_closed")], plan, [], memory=NO_MEMORY)
    assert [failed for *_, failed in found.faults] == [1, 0]


@pytest.mark.parametrize(
    ("body", "text", "outcome"),
    [
        (AS_ORDER, '{"name": "anna", "qty": 3, "item": "lamp", "day": null}', OK),
        (AS_ORDER, '{"name": "anna", "qty": 3}', WRONG_RESPONSE),
        (AS_ORDER, '{"name": "anna", "qty": 3', WRONG_RESPONSE),
        ({}, "fix", OK),
        ({}, " ", WRONG_RESPONSE),
    ],
)
def test_only_a_correct_response_counts_as_success(body: dict[str, object], text: str, outcome: str) -> None:
    call = Call(due_s=0.0, prompt=Prompt(body=body))
    sample = Sample(call=call, sent_s=0.0, ended_s=1.0, first_s=None, outcome=OK, text=text)
    assert checked_outcome(sample) == outcome


@pytest.mark.parametrize("line", [["--seconds", "5"], ["--success", "2"], ["--rate", "-1"]])
def test_wrong_use_is_reported_in_one_line(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.parse(line)
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_minute_of_chaos_loses_no_request(tmp_path: Path) -> None:
    file = tmp_path / "chaos.json"
    line = [sys.executable, "-m", "twolane", "chaos", "--seconds", "60", "--rate", "4", "--every", "4", "--json", file]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=1700, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(file.read_text())
    assert found["requests"] > 180
    assert len(found["faults"]) >= 5
    assert found["unlogged"] < 10, "successful requests must appear in the decision logs"


@pytest.mark.slow
def test_an_interrupted_run_leaves_no_process(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    line = [sys.executable, "-m", "twolane", "chaos", "--seconds", "60"]
    process = subprocess.Popen(line, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()  # printed before the start
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=500)
    assert process.returncode == 1
    left = [one for one in Path("/proc").glob("[0-9]*/environ") if f"TMPDIR={tmp_path}".encode() in _bytes(one)]
    assert not left


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""
