"""The keys file of a running program: it is followed whatever happens to the file."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from twolane.process import keys_file
from twolane.process.api_keys import key_line
from twolane.process.keys_file import KeysFile

pytestmark = pytest.mark.anyio


@pytest.fixture(name="file")
def make_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(keys_file, "WATCH_EVERY_S", 0.001)
    path = tmp_path / "keys"
    path.write_text(key_line("ann", "a"))
    return path


@pytest.fixture(name="keys")
async def follow(file: Path) -> AsyncIterator[KeysFile]:
    followed = KeysFile(file)
    task = asyncio.create_task(followed.follow())
    yield followed
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(120):
        while not condition():  # noqa: ASYNC110 - another task loads the file
            await asyncio.sleep(0.001)


async def test_a_file_that_is_swapped_by_symlink_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Kubernetes updates a secret: the file is a link into a folder, and the folder is a link that is replaced."""
    monkeypatch.setattr(keys_file, "WATCH_EVERY_S", 0.001)
    for folder, name in (("v1", "a"), ("v2", "b")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "keys").write_text(key_line("ann", name))
    (tmp_path / "data").symlink_to("v1")
    (tmp_path / "keys").symlink_to("data/keys")
    keys = KeysFile(tmp_path / "keys")
    task = asyncio.create_task(keys.follow())
    (tmp_path / "new").symlink_to("v2")
    (tmp_path / "new").rename(tmp_path / "data")
    await until(lambda: keys.current.find(b"b"))
    assert keys.current.find(b"a") is None
    task.cancel()


@pytest.mark.parametrize("cause", [OSError(24, "Too many open files"), RuntimeError("unexpected")])
async def test_a_change_that_cannot_be_read_is_read_again_until_it_can(
    keys: KeysFile, file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, cause: Exception
) -> None:
    """The cause passes without another change of the file; it is logged once."""
    tries = []

    def fail(*_: Any, **__: Any) -> str:
        tries.append(1)
        raise cause

    with monkeypatch.context() as broken, caplog.at_level(logging.ERROR):
        broken.setattr(Path, "read_text", fail)
        await asyncio.to_thread(file.write_bytes, key_line("ben", "b").encode())
        await until(lambda: len(tries) > 2)
        assert keys.current.find(b"a")
    await until(lambda: keys.current.find(b"b"))
    assert keys.current.find(b"a") is None
    assert [vars(record)["fields"]["event"] for record in caplog.records] == ["keys_refused"]


async def test_a_file_that_disappears_keeps_the_keys_until_it_is_back(
    keys: KeysFile, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        await asyncio.to_thread(file.unlink)
        await until(lambda: caplog.records)
    assert keys.current.find(b"a")
    await asyncio.to_thread(file.write_bytes, key_line("ben", "b").encode())
    await until(lambda: keys.current.find(b"b"))


def test_a_change_of_permissions_is_a_change(file: Path) -> None:
    """A file that its program could not read may be readable now."""
    before = keys_file.FileWatch(file)
    file.chmod(0o640)
    before.has_settled()
    assert before.has_settled()
