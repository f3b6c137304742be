"""Metrics shared by the processes of one gateway."""

import os
from pathlib import Path

import pytest

from gateway.telemetry import metric_names as names
from gateway.telemetry import multiprocess
from gateway.telemetry.gauges import Gauges, Reading
from gateway.telemetry.metrics_folder import forget, forget_all
from gateway.telemetry.multiprocess import MultiprocessMetrics


def values(gauges: Gauges) -> dict[str, float]:
    return {sample.name: sample.value for family in gauges.collect() for sample in family.samples}


def other(folder: Path, pid: int, *readings: Reading) -> Path:
    """Publish readings as another process."""
    made = MultiprocessMetrics(folder)
    made._own = folder / f"states_{pid}.json"
    made.publish(readings)
    return made._own


def test_in_flight_is_summed_and_the_worst_state_is_shown(tmp_path: Path) -> None:
    own = Gauges(MultiprocessMetrics(tmp_path).read_peers)
    own.add_source(lambda: [Reading(names.IN_FLIGHT, ("fast",), 2), Reading(names.LANE_STATE, ("edits", "fast"), 0)])
    own.add_source(lambda: [Reading(names.STORE_UP, (), 1)])
    other(tmp_path, 1, Reading(names.IN_FLIGHT, ("fast",), 3), Reading(names.LANE_STATE, ("edits", "fast"), 2))
    other(tmp_path, 2, Reading(names.IN_FLIGHT, ("fast",), 4), Reading(names.STORE_UP, (), 0))
    own.refresh()
    found = values(own)
    assert (found[names.IN_FLIGHT], found[names.LANE_STATE], found[names.STORE_UP]) == (9, 2, 0)


def test_own_readings_are_not_counted_twice(tmp_path: Path) -> None:
    mine = MultiprocessMetrics(tmp_path)
    mine.publish([Reading(names.IN_FLIGHT, ("fast",), 3)])
    assert list(mine.read_peers()) == []
    mine.close()
    assert list(tmp_path.iterdir()) == []


def test_dead_and_hanging_processes_are_dropped(tmp_path: Path) -> None:
    reading = Reading(names.IN_FLIGHT, ("fast",), 3)
    still = other(tmp_path, 1, reading)
    other(tmp_path, 2, reading)
    assert len(list(MultiprocessMetrics(tmp_path).read_peers())) == 2
    os.utime(still, (0, 0))
    assert len(list(MultiprocessMetrics(tmp_path).read_peers())) == 1
    forget(tmp_path, 2)
    assert list(MultiprocessMetrics(tmp_path).read_peers()) == []
    (tmp_path / "counter_1.db").touch()
    forget_all(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("found", [b"", b"\xff", b"[[1", b"{}", b'[["strange", [], 1]]', b"[1]", b'[["a", 1, 1]]'])
def test_an_invalid_file_is_skipped(tmp_path: Path, found: bytes) -> None:
    (tmp_path / "states_1.json").write_bytes(found)
    assert list(MultiprocessMetrics(tmp_path).read_peers()) == []


def test_a_full_disk_fails_no_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = MultiprocessMetrics(tmp_path / "gone")
    gone.publish([Reading(names.IN_FLIGHT, ("fast",), 3)])
    assert list(gone.read_peers()) == []
    assert multiprocess.STALE_S > 2 * multiprocess.PUBLISH_EVERY_S
