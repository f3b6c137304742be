"""The decision log on disk."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.telemetry import decision_log
from gateway.telemetry.decision_log import DecisionLog
from twolane.process.errors import ConfigurationError


def test_closing_writes_what_waits(decision: Any, tmp_path: Path) -> None:
    log = DecisionLog(tmp_path / "log")
    for number in range(100):
        log.decided(decision(query_id=f"req_{number}"))
    log.close()
    lines = [orjson.loads(line) for line in (tmp_path / "log").read_bytes().splitlines()]
    assert [line["id"] for line in lines] == [f"req_{number}" for number in range(100)]


def test_a_log_goes_on_where_it_ended(decision: Any, tmp_path: Path) -> None:
    for _ in range(2):
        log = DecisionLog(tmp_path / "log")
        log.decided(decision())
        log.close()
    assert len((tmp_path / "log").read_bytes().splitlines()) == 2


def test_a_file_that_cannot_be_written_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="TWOLANE_DECISION_LOG"):
        DecisionLog(tmp_path / "no" / "such" / "folder")


def test_a_full_disk_costs_lines_and_no_requests(decision: Any) -> None:
    lost: list[int] = []
    log = DecisionLog(Path("/dev/full"), lost.append)
    log.decided(decision())
    log.close()
    assert sum(lost) == 1


def test_more_than_may_wait_is_dropped_and_counted(decision: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(decision_log, "MAX_WAITING", 0)
    lost: list[int] = []
    log = DecisionLog(tmp_path / "log", lost.append)
    log.decided(decision())
    log.close()
    assert sum(lost) == 1


def test_what_json_cannot_say_costs_its_own_line_only(decision: Any, tmp_path: Path) -> None:
    lost: list[int] = []
    log = DecisionLog(tmp_path / "log", lost.append)
    for name in ("req_1", "\ud800", "req_2"):
        log.decided(decision(query_id=name))
    log.close()
    lines = [orjson.loads(line) for line in (tmp_path / "log").read_bytes().splitlines()]
    assert [line["id"] for line in lines] == ["req_1", "req_2"]
    assert sum(lost) == 1


def test_a_log_that_is_full_is_put_aside_with_all_its_lines(decision: Any, tmp_path: Path) -> None:
    for number in range(3):
        log = DecisionLog(tmp_path / "log", most_bytes=1, keep=5)
        log.decided(decision(query_id=f"req_{number}"))
        log.close()
    assert [orjson.loads((tmp_path / name).read_bytes())["id"] for name in ("log.2", "log.1", "log")] == [
        "req_0",
        "req_1",
        "req_2",
    ]
