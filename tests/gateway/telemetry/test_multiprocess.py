"""What processes of one gateway tell each other of what they see."""

import os
from pathlib import Path

import pytest

from gateway.telemetry import metric_names as names
from gateway.telemetry import multiprocess
from gateway.telemetry.gauges import Gauges, Reading
from gateway.telemetry.multiprocess import MultiprocessMetrics, forget, forget_all


def values(gauges: Gauges) -> dict[str, float]:
    return {sample.name: sample.value for family in gauges.collect() for sample in family.samples}


def other(folder: Path, pid: int, *readings: Reading) -> Path:
    """Another process has told this."""
    made = MultiprocessMetrics(folder)
    made._own = folder / f"states_{pid}.json"
    made.tell(readings)
    return made._own


def test_attempts_add_up_and_the_worst_state_is_shown(tmp_path: Path) -> None:
    own = Gauges(MultiprocessMetrics(tmp_path).heard)
    own.watch(lambda: [Reading(names.IN_FLIGHT, ("fast",), 2), Reading(names.LANE_STATE, ("edits", "fast"), 0)])
    own.watch(lambda: [Reading(names.STORE_UP, (), 1)])
    other(tmp_path, 1, Reading(names.IN_FLIGHT, ("fast",), 3), Reading(names.LANE_STATE, ("edits", "fast"), 2))
    other(tmp_path, 2, Reading(names.IN_FLIGHT, ("fast",), 4), Reading(names.STORE_UP, (), 0))
    own.look()
    told = values(own)
    assert (told[names.IN_FLIGHT], told[names.LANE_STATE], told[names.STORE_UP]) == (9, 2, 0)


def test_what_was_told_by_ourselves_is_not_counted_twice(tmp_path: Path) -> None:
    mine = MultiprocessMetrics(tmp_path)
    mine.tell([Reading(names.IN_FLIGHT, ("fast",), 3)])
    assert list(mine.heard()) == []
    mine.leave()
    assert list(tmp_path.iterdir()) == []


def test_who_has_died_or_stands_still_is_forgotten(tmp_path: Path) -> None:
    reading = Reading(names.IN_FLIGHT, ("fast",), 3)
    still = other(tmp_path, 1, reading)
    other(tmp_path, 2, reading)
    assert len(list(MultiprocessMetrics(tmp_path).heard())) == 2
    os.utime(still, (0, 0))
    assert len(list(MultiprocessMetrics(tmp_path).heard())) == 1
    forget(tmp_path, 2)
    assert list(MultiprocessMetrics(tmp_path).heard()) == []
    (tmp_path / "counter_1.db").touch()
    forget_all(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("told", [b"", b"\xff", b"[[1", b"{}", b'[["strange", [], 1]]', b"[1]", b'[["a", 1, 1]]'])
def test_a_file_that_makes_no_sense_is_passed_over(tmp_path: Path, told: bytes) -> None:
    (tmp_path / "states_1.json").write_bytes(told)
    assert list(MultiprocessMetrics(tmp_path).heard()) == []


def test_a_full_disk_costs_no_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = MultiprocessMetrics(tmp_path / "gone")
    gone.tell([Reading(names.IN_FLIGHT, ("fast",), 3)])
    assert list(gone.heard()) == []
    assert multiprocess.STALE_S > 2 * multiprocess.TELL_EVERY_S
