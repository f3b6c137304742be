"""A file that is put aside when it is full."""

import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway.telemetry.log_rotation import RotatingFile

LINE = b"0123456789\n"


def all_lines(folder: Path) -> list[bytes]:
    return [line for file in folder.iterdir() for line in file.read_bytes().splitlines()]


def test_a_full_file_is_put_aside_and_only_so_many_are_kept(tmp_path: Path) -> None:
    file = RotatingFile(tmp_path / "log", most_bytes=2 * len(LINE), keep=2)
    for number in range(9):
        file.append(b"line %05d\n" % number)
    file.close()
    assert {each.name: each.read_bytes().split()[1::2] for each in tmp_path.iterdir()} == {
        "log": [b"00008"],
        "log.1": [b"00006", b"00007"],
        "log.2": [b"00004", b"00005"],
    }


def test_without_a_limit_a_file_grows(tmp_path: Path) -> None:
    file = RotatingFile(tmp_path / "log", most_bytes=0, keep=1)
    for _ in range(100):
        file.append(LINE)
    file.close()
    assert [each.name for each in tmp_path.iterdir()] == ["log"]


def test_more_than_a_file_may_hold_goes_into_one_of_its_own(tmp_path: Path) -> None:
    file = RotatingFile(tmp_path / "log", most_bytes=5, keep=3)
    for _ in range(2):
        file.append(LINE)
    file.close()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["log", "log.1"]


def test_several_writers_of_one_file_lose_no_line(tmp_path: Path) -> None:
    def write(writer: int) -> None:
        file = RotatingFile(tmp_path / "log", most_bytes=300, keep=1000)
        for number in range(200):
            file.append(b"%d %d\n" % (writer, number))
        file.close()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, range(4)))
    assert sorted(all_lines(tmp_path)) == sorted(b"%d %d" % (w, n) for w in range(4) for n in range(200))
    assert all(each.stat().st_size <= 300 for each in tmp_path.iterdir())


def test_a_file_that_somebody_else_moved_is_let_go(tmp_path: Path) -> None:
    file = RotatingFile(tmp_path / "log", most_bytes=0, keep=1)
    file.append(b"before\n")
    (tmp_path / "log").rename(tmp_path / "moved")
    file.append(b"after\n")
    file.close()
    assert (tmp_path / "moved").read_bytes() == b"before\n"
    assert (tmp_path / "log").read_bytes() == b"after\n"


def test_a_folder_that_lets_nothing_be_put_aside_costs_no_line(tmp_path: Path) -> None:
    (tmp_path / "log.1" / "full").mkdir(parents=True)
    file = RotatingFile(tmp_path / "log", most_bytes=len(LINE), keep=1)
    for _ in range(3):
        file.append(LINE)
    file.close()
    assert (tmp_path / "log").read_bytes() == 3 * LINE


def test_a_disk_that_ends_in_the_middle_leaves_no_half_a_line(tmp_path: Path) -> None:
    file = RotatingFile(tmp_path / "log", most_bytes=0, keep=1)
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
