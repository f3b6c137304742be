"""The running policy is replaced by a valid file only, and automatically when the file changes."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import CannotStart, PolicyError
from gateway.policy_files.watch import Policies, PolicyWatcher
from gateway.routing.policy import Policy
from twolane.process.file_watch import fingerprint

TEXT = """\
version: 1
targets:
  fast: {kind: worker, url: "http://127.0.0.1:1", model: m, location: in_cluster}
routes:
  - {name: default, use: fast}
"""
OTHER = TEXT.replace("model: m", "model: n")
WRONG = TEXT.replace("use: fast", "use: slow")


@pytest.fixture(name="path")
def policy_path(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(TEXT)
    return path


def test_an_invalid_policy_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(PolicyError):
        Policies(tmp_path / "none.yaml", {})


def read_again(policies: Policies) -> bool:
    return policies.swap(policies.prepare())


def test_a_valid_file_takes_over_and_running_requests_keep_their_policy(path: Path) -> None:
    policies = Policies(path, {})
    snapshot = policies.current
    path.write_text(OTHER)
    assert read_again(policies) is True
    assert policies.current.targets["fast"].model == "n"
    assert snapshot.targets["fast"].model == "m"


def test_an_invalid_file_changes_nothing(path: Path) -> None:
    policies = Policies(path, {})
    before = policies.current
    path.write_text(WRONG)
    with pytest.raises(PolicyError, match="unknown target 'slow'"):
        policies.prepare()
    assert policies.current is before


def test_the_same_content_is_no_change(path: Path) -> None:
    policies = Policies(path, {})
    path.write_text("# a comment\n" + TEXT)
    assert read_again(policies) is False


def put(path: Path, text: str | None) -> None:
    path.unlink() if text is None else path.write_text(text)


@contextlib.asynccontextmanager
async def following(path: Path) -> AsyncIterator[tuple[Policies, PolicyWatcher, Callable[[], Any]]]:
    """A watcher that checks a hundred times a second, and `told`: the result of the next reload."""
    policies, news = Policies(path, {}), asyncio.Queue[Any]()
    watcher = PolicyWatcher(policies, news.put_nowait)
    running = asyncio.create_task(watcher.run(0.01))

    async def told() -> Any:
        return await asyncio.wait_for(news.get(), 120)

    try:
        yield policies, watcher, told
        assert news.empty()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.mark.anyio
async def test_a_changed_file_is_reloaded_and_an_invalid_one_reported_once(path: Path) -> None:
    async with following(path) as (policies, _, told):
        put(path, WRONG)
        assert "unknown target 'slow'" in str(await told())
        assert policies.current.targets["fast"].model == "m"  # the last valid one
        put(path, OTHER)
        assert await told() is True
        assert policies.current.targets["fast"].model == "n"


@pytest.mark.anyio
async def test_a_kubernetes_symlink_swap_is_noticed(tmp_path: Path) -> None:
    """A ConfigMap's file is a symlink into `..data`, itself a symlink that an update replaces atomically."""
    for name, text in (("..one", TEXT), ("..two", OTHER)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "policy.yaml").write_text(text)
        os.utime(tmp_path / name / "policy.yaml", ns=(1, 1))
    (tmp_path / "..data").symlink_to("..one")
    (tmp_path / "policy.yaml").symlink_to("..data/policy.yaml")
    async with following(tmp_path / "policy.yaml") as (policies, _, told):
        (tmp_path / "..new").symlink_to("..two")
        (tmp_path / "..new").rename(tmp_path / "..data")
        assert await told() is True
        assert policies.current.targets["fast"].model == "n"


@pytest.mark.anyio
async def test_a_deleted_file_keeps_the_last_valid_policy_and_can_come_back(path: Path) -> None:
    async with following(path) as (policies, _, told):
        put(path, None)
        assert "cannot read the file" in str(await told())
        assert policies.current.targets["fast"].model == "m"
        put(path, OTHER)
        assert await told() is True


@pytest.mark.anyio
async def test_a_file_that_could_not_be_read_for_a_while_is_loaded_without_another_change(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network file system that was away, or no free file descriptor: reported once, read until it succeeds."""
    async with following(path) as (policies, _, told):
        with monkeypatch.context() as broken:
            reads = asyncio.Semaphore(0)
            loop = asyncio.get_running_loop()

            def fail(_: Path) -> bytes:
                loop.call_soon_threadsafe(reads.release)
                raise OSError(5, "Input/output error")

            broken.setattr(Path, "read_bytes", fail)
            put(path, OTHER)
            assert "Input/output error" in str(await told())
            for _ in range(3):
                await reads.acquire()
            assert policies.current.targets["fast"].model == "m"
        assert await told() is True, "nothing was reported in between"
        assert policies.current.targets["fast"].model == "n"


@pytest.mark.anyio
async def test_a_requested_reload_reads_an_unchanged_file(path: Path) -> None:
    async with following(path) as (_, watcher, told):
        watcher.request_reload()
        assert await told() is False


def test_a_file_that_is_still_being_written_is_not_loaded(path: Path) -> None:
    watcher = PolicyWatcher(Policies(path, {}), lambda _: None)
    settled = []
    for size in range(3):
        path.write_text(TEXT + "# more\n" * size)
        settled.append(watcher._watch.has_settled())
    settled += [watcher._watch.has_settled(), watcher._watch.has_settled()]
    assert settled == [False, False, False, True, True]


@pytest.mark.anyio
async def test_an_unexpected_error_is_reported_and_later_changes_are_loaded(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with following(path) as (policies, _, told):
        with monkeypatch.context() as broken:

            def trip(*_: object) -> None:
                raise OverflowError

            broken.setattr("gateway.policy_files.watch.load", trip)
            put(path, OTHER)
            assert "OverflowError" in str(await told())
            assert policies.current.targets["fast"].model == "m"
        put(path, OTHER + "# again\n")
        assert await told() is True


@pytest.mark.anyio
async def test_a_policy_is_activated_once_its_targets_are_prepared(path: Path) -> None:
    policies, told, loaded = Policies(path, {}), list[Any](), asyncio.Event()

    async def prepare(policy: Policy) -> None:
        assert policy.targets["fast"].model == "n"
        await loaded.wait()

    watcher = PolicyWatcher(policies, told.append, prepare_targets=prepare)
    put(path, OTHER)
    reading = asyncio.create_task(watcher.reload())
    while watcher._watch._loaded != fingerprint(path) or not loaded._waiters:  # type: ignore[attr-defined]  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert (policies.current.targets["fast"].model, told) == ("m", [])
    loaded.set()
    await reading
    assert (policies.current.targets["fast"].model, told) == ("n", [True])


@pytest.mark.anyio
async def test_a_policy_whose_targets_cannot_be_prepared_is_refused(path: Path) -> None:
    policies, told = Policies(path, {}), list[Any]()

    async def prepare(_: Policy) -> None:
        raise CannotStart("litellm cannot be imported.")

    put(path, OTHER)
    await PolicyWatcher(policies, told.append, prepare_targets=prepare).reload()
    assert policies.current.targets["fast"].model == "m"
    assert isinstance(told[0], PolicyError)
    assert "policy.yaml" in str(told[0])
    assert "litellm cannot be imported" in str(told[0])
