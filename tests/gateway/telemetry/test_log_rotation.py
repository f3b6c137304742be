"""Rotation of a full log file."""

import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway.telemetry.log_rotation import RotatingFile

LINE = b"0123456789\n"


def all_lines(folder: Path) -> list[bytes]:
    return [line for file in folder.iterdir() for line in file.read_bytes().splitlines()]


def test_a_full_file_is_rotated_and_old_files_are_deleted(tmp_path: Path) -> None:
    file = RotatingFile(tmp_path / "log", max_bytes=2 * len(LINE), keep=2)
    for number in range(9):
        file.append(b"line %05d\n" % number)
    file.close()
    assert {each.name: each.read_bytes().split()[1::2] for each in tmp_path.iterdir()} == {
        "log": [b"00008"],
        "log.1": [b"00006", b"00007"],
        "log.2": [b"00004", b"00005"],
    }


def test_without_a_limit_a_file_grows(tmp_path: Path) -> None:
    file = RotatingFile(tmp_path / "log", max_bytes=0, keep=1)
    for _ in range(100):
        file.append(LINE)
    file.close()
    assert [each.name for each in tmp_path.iterdir()] == ["log"]


def test_a_write_above_the_limit_gets_its_own_file(tmp_path: Path) -> None:
    file = RotatingFile(tmp_path / "log", max_bytes=5, keep=3)
    for _ in range(2):
        file.append(LINE)
    file.close()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["log", "log.1"]


def test_several_writers_of_one_file_lose_no_line(tmp_path: Path) -> None:
    def write(writer: int) -> None:
        file = RotatingFile(tmp_path / "log", max_bytes=300, keep=1000)
        for number in range(200):
            file.append(b"%d %d\n" % (writer, number))
        file.close()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, range(4)))
    assert sorted(all_lines(tmp_path)) == sorted(b"%d %d" % (w, n) for w in range(4) for n in range(200))
    assert all(each.stat().st_size <= 300 for each in tmp_path.iterdir())


def test_a_file_moved_by_another_program_is_reopened(tmp_path: Path) -> None:
    file = RotatingFile(tmp_path / "log", max_bytes=0, keep=1)
    file.append(b"before\n")
    (tmp_path / "log").rename(tmp_path / "moved")
    file.append(b"after\n")
    file.close()
    assert (tmp_path / "moved").read_bytes() == b"before\n"
    assert (tmp_path / "log").read_bytes() == b"after\n"


def test_a_read_only_folder_loses_no_line(tmp_path: Path) -> None:
    (tmp_path / "log.1" / "full").mkdir(parents=True)
    file = RotatingFile(tmp_path / "log", max_bytes=len(LINE), keep=1)
    for _ in range(3):
        file.append(LINE)
    file.close()
    assert (tmp_path / "log").read_bytes() == 3 * LINE


def test_a_full_disk_leaves_no_partial_line(tmp_path: Path) -> None:
    file = RotatingFile(tmp_path / "log", max_bytes=0, keep=1)
    file.append(LINE)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(LINE) + 3, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            file.append(LINE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    file.append(LINE)
    file.close()
    assert (tmp_path / "log").read_bytes() == 2 * LINE
