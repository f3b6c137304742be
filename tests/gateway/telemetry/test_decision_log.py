"""The decision log on disk."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.telemetry import decision_log
from gateway.telemetry.decision_log import DecisionLog
from twolane.process.errors import ConfigurationError


def test_closing_writes_waiting_lines(decision: Any, tmp_path: Path) -> None:
    log = DecisionLog(tmp_path / "log")
    for number in range(100):
        log.decided_all([decision(query_id=f"req_{number}")])
    log.close()
    lines = [orjson.loads(line) for line in (tmp_path / "log").read_bytes().splitlines()]
    assert [line["id"] for line in lines] == [f"req_{number}" for number in range(100)]


def test_every_line_names_the_replica_that_decided(decision: Any, tmp_path: Path) -> None:
    log = DecisionLog(tmp_path / "log", replica="gateway-7")
    log.decided_all([decision()])
    log.record({"event": "feedback"})
    log.close()
    first, second = (orjson.loads(line) for line in (tmp_path / "log").read_bytes().splitlines())
    assert first["gateway"] == "gateway-7"
    assert second == {"event": "feedback"}


def test_an_existing_log_is_appended_to(decision: Any, tmp_path: Path) -> None:
    for _ in range(2):
        log = DecisionLog(tmp_path / "log")
        log.decided_all([decision()])
        log.close()
    assert len((tmp_path / "log").read_bytes().splitlines()) == 2


def test_an_unwritable_file_is_refused_at_startup(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="TWOLANE_DECISION_LOG"):
        DecisionLog(tmp_path / "no" / "such" / "folder")


def test_a_full_disk_drops_lines_and_fails_no_request(decision: Any) -> None:
    lost: list[int] = []
    log = DecisionLog(Path("/dev/full"), lost.append)
    log.decided_all([decision()])
    log.close()
    assert sum(lost) == 1


def test_lines_beyond_the_queue_limit_are_dropped_and_counted(decision: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(decision_log, "MAX_WAITING", 0)
    lost: list[int] = []
    log = DecisionLog(tmp_path / "log", lost.append)
    log.decided_all([decision()])
    log.close()
    assert sum(lost) == 1


def test_a_decision_that_cannot_be_encoded_drops_only_its_line(decision: Any, tmp_path: Path) -> None:
    lost: list[int] = []
    log = DecisionLog(tmp_path / "log", lost.append)
    for name in ("req_1", "\ud800", "req_2"):
        log.decided_all([decision(query_id=name)])
    log.close()
    lines = [orjson.loads(line) for line in (tmp_path / "log").read_bytes().splitlines()]
    assert [line["id"] for line in lines] == ["req_1", "req_2"]
    assert sum(lost) == 1


def test_a_decision_without_a_line_does_not_end_the_log(decision: Any, tmp_path: Path) -> None:
    lost: list[int] = []
    log = DecisionLog(tmp_path / "log", lost.append)
    log.decided_all([decision(query_id="req_1")])
    log.decided_all([decision(time_s=float("inf"))])
    log.decided_all([decision(query_id="req_2")])
    log.close()
    assert [orjson.loads(line)["id"] for line in (tmp_path / "log").read_bytes().splitlines()] == ["req_1", "req_2"]
    assert sum(lost) == 1


def test_a_full_log_is_rotated_without_losing_lines(decision: Any, tmp_path: Path) -> None:
    for number in range(3):
        log = DecisionLog(tmp_path / "log", max_bytes=1, keep=5)
        log.decided_all([decision(query_id=f"req_{number}")])
        log.close()
    assert [orjson.loads((tmp_path / name).read_bytes())["id"] for name in ("log.2", "log.1", "log")] == [
        "req_0",
        "req_1",
        "req_2",
    ]
