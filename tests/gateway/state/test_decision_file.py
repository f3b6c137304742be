"""The processes of one gateway share their recent decisions in a file."""

import asyncio
import sys
from pathlib import Path

import pytest

from gateway.state.decision_file import NAME, DecisionFile, DecisionFileError

pytestmark = pytest.mark.anyio

WRITER = """
import asyncio, sys
from pathlib import Path
from gateway.state.decision_file import DecisionFile

async def write():
    file = DecisionFile(Path(sys.argv[1]), capacity=1000)
    for number in range(20):
        await file.append([f"{sys.argv[2]}:{number}".encode(), b"more"])
    await file.aclose()

asyncio.run(write())
"""


async def test_entries_of_all_are_read_in_order_and_only_once(tmp_path: Path) -> None:
    one, two = (DecisionFile(tmp_path, capacity=100) for _ in range(2))
    await one.append([b"a", b"b"])
    await two.append([b"c"])
    first = await two.after("", 10)
    assert [entry for _, entry in first] == [b"a", b"b", b"c"]
    await one.append([b"d"])
    assert [entry for _, entry in await two.after(first[-1][0], 10)] == [b"d"]
    assert [entry for _, entry in await one.after("", 2)] == [b"c", b"d"]
    await asyncio.gather(one.aclose(), two.aclose())


async def test_the_oldest_entries_are_dropped(tmp_path: Path) -> None:
    file = DecisionFile(tmp_path, capacity=5)
    for number in range(12):
        await file.append([b"%d" % number])
    assert [entry for _, entry in await file.after("", 100)] == [b"7", b"8", b"9", b"10", b"11"]
    await file.aclose()


async def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    async def write(name: str) -> int:
        writer = await asyncio.create_subprocess_exec(sys.executable, "-c", WRITER, str(tmp_path), name)
        return await writer.wait()

    assert list(await asyncio.gather(write("one"), write("two"))) == [0, 0]
    file = DecisionFile(tmp_path, capacity=1000)
    found = [entry.decode() for _, entry in await file.after("", 1000)]
    assert len(found) == 80
    for name in ("one", "two"):
        assert [each for each in found if each.startswith(name)] == [f"{name}:{number}" for number in range(20)]
    await file.aclose()


async def test_a_file_that_cannot_be_used_is_an_error_of_its_own(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"not a database" * 100)
    file = DecisionFile(tmp_path, capacity=5)
    with pytest.raises(DecisionFileError):
        await file.append([b"a"])
    with pytest.raises(DecisionFileError):
        await file.after("", 5)
    await file.aclose()
