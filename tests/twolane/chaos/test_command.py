"""A chaos run counts failed and duplicate requests, and no request is lost."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.gateway.virtual import run_virtual
from twolane.bench.load import OK, Sample
from twolane.bench.plan import Call, Prompt
from twolane.chaos import command
from twolane.chaos.clients import WRONG_RESPONSE, RequestResult, checked_outcome
from twolane.chaos.command import inject_all
from twolane.chaos.environment import TimeLimits, read_limits
from twolane.chaos.plan import FaultInjection, FaultKind, schedule_faults
from twolane.chaos.report import report
from twolane.demo.prompts import AS_ORDER
from twolane.process import bundled
from twolane.process.flags import WrongUseError

ROOT = Path(__file__).parents[3]
POLICY = bundled.policy(bundled.CHAOS_POLICY)
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


def test_limits_follow_the_policy_and_a_wrong_policy_is_wrong_use(tmp_path: Path) -> None:
    assert read_limits(POLICY) == TimeLimits(deadline_s=20.0, attempt_s=4.0)
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("version: 1\ntargets: {}\n")
    with pytest.raises(WrongUseError, match="at least one target"):
        read_limits(wrong)


class SlowParts:
    """Parts that take `late_s` to serve again; records the faults that are not over when another starts."""

    def __init__(self, late_s: float) -> None:
        self.late_s, self.affected = late_s, list[FaultInjection]()
        self.together: set[tuple[FaultInjection, FaultInjection]] = set()

    async def inject(self, injection: FaultInjection) -> None:
        self.together |= {(earlier, injection) for earlier in self.affected}
        self.affected.append(injection)

    async def recover(self, injection: FaultInjection) -> None:
        await asyncio.sleep(self.late_s)
        self.affected.remove(injection)


@pytest.mark.parametrize("late_s", [0.0, 45.0])
def test_a_part_that_recovers_late_delays_the_schedule_and_never_adds_to_the_faults_at_once(late_s: float) -> None:
    planned, parts = schedule_faults(120.0, 4.0, 1), SlowParts(late_s)
    faults, delay_s = run_virtual(inject_all(parts, planned, 120.0))
    assert [(one.part, one.kind) for one in faults] == [(one.part, one.kind) for one in planned]
    assert all(earlier.serves_s > later.at_s for earlier, later in parts.together), "these overlap as planned"
    assert not parts.affected
    assert (delay_s > late_s) if late_s else (delay_s == pytest.approx(0.0))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_under_faults_loses_no_request(tmp_path: Path) -> None:
    file, policy = tmp_path / "chaos.json", tmp_path / "policy.yaml"
    policy.write_text(patient(POLICY.read_text()))
    line = [sys.executable, "-m", "twolane", "chaos", "--seconds", "45", "--rate", "3", "--max-in-flight", "8"]
    line += ["--every", "4", "--policy", str(policy), "--json", str(file)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=3500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(file.read_text())
    assert found["requests"] > 60
    assert len(found["faults"]) == len(schedule_faults(45.0, 4.0, 1)) >= 5
    assert found["unlogged"] < 10, "successful requests must appear in the decision logs"


def patient(policy: str) -> str:
    """The policy with five times the time for attempts and requests: an attempt on a loaded machine takes seconds."""
    return re.sub(r"(attempt_ms|deadline_ms): (\d+)", lambda found: f"{found[1]}: {5 * int(found[2])}", policy)


@pytest.mark.slow
def test_an_interrupted_run_leaves_no_process(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    # With -u it is executed, not forked: the environment of a forked process does not show in /proc.
    line = [sys.executable, "-u", "-m", "twolane", "chaos", "--seconds", "60"]
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
