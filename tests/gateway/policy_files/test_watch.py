"""The running policy is replaced whole, only by one that loads, and by itself when its file changes."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import CannotStart, PolicyError
from gateway.policy_files.watch import Follower, Policies, look
from gateway.routing.policy import Policy

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


def test_there_is_none_without_a_policy_that_loads(tmp_path: Path) -> None:
    with pytest.raises(PolicyError):
        Policies(tmp_path / "none.yaml", {})


def read_again(policies: Policies) -> bool:
    return policies.swap(policies.prepare())


def test_a_good_file_takes_over_and_requests_keep_their_snapshot(path: Path) -> None:
    policies = Policies(path, {})
    snapshot = policies.current
    path.write_text(OTHER)
    assert read_again(policies) is True
    assert policies.current.targets["fast"].model == "n"
    assert snapshot.targets["fast"].model == "m"


def test_a_wrong_file_changes_nothing(path: Path) -> None:
    policies = Policies(path, {})
    before = policies.current
    path.write_text(WRONG)
    with pytest.raises(PolicyError, match="no target called 'slow'"):
        policies.prepare()
    assert policies.current is before


def test_the_same_content_is_no_change(path: Path) -> None:
    policies = Policies(path, {})
    path.write_text("# a comment\n" + TEXT)
    assert read_again(policies) is False


def put(path: Path, text: str | None) -> None:
    path.unlink() if text is None else path.write_text(text)


@contextlib.asynccontextmanager
async def following(path: Path) -> AsyncIterator[tuple[Policies, Follower, Callable[[], Any]]]:
    """A follower that looks a hundred times a second, and `told`: how the next reading went."""
    policies, news = Policies(path, {}), asyncio.Queue[Any]()
    follower = Follower(policies, news.put_nowait)
    running = asyncio.create_task(follower.run(0.01))

    async def told() -> Any:
        return await asyncio.wait_for(news.get(), 120)

    try:
        yield policies, follower, told
        assert news.empty()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.mark.anyio
async def test_a_changed_file_is_read_by_itself_and_a_wrong_one_told_once(path: Path) -> None:
    async with following(path) as (policies, _, told):
        put(path, WRONG)
        assert "no target called 'slow'" in str(await told())
        assert policies.current.targets["fast"].model == "m"  # the last good one
        put(path, OTHER)
        assert await told() is True
        assert policies.current.targets["fast"].model == "n"


@pytest.mark.anyio
async def test_symlinks_swapped_as_kubernetes_does_are_seen(tmp_path: Path) -> None:
    """A ConfigMap's file is a symlink into `..data`, which is itself a symlink that an update replaces by a rename."""
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
async def test_a_file_that_is_gone_leaves_the_last_good_policy_and_may_come_back(path: Path) -> None:
    async with following(path) as (policies, _, told):
        put(path, None)
        assert "cannot be read" in str(await told())
        assert policies.current.targets["fast"].model == "m"
        put(path, OTHER)
        assert await told() is True


@pytest.mark.anyio
async def test_asked_to_it_reads_a_file_that_did_not_change(path: Path) -> None:
    async with following(path) as (_, follower, told):
        follower.ask()
        assert await told() is False


def test_a_file_that_is_still_being_written_is_not_read(path: Path) -> None:
    follower = Follower(Policies(path, {}), lambda _: None)
    settled = []
    for size in range(3):
        path.write_text(TEXT + "# more\n" * size)
        settled.append(follower._has_settled())
    settled += [follower._has_settled(), follower._has_settled()]
    assert settled == [False, False, False, True, True]


@pytest.mark.anyio
async def test_a_mistake_of_ours_in_reading_is_told_and_later_files_are_followed(
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
async def test_a_policy_is_swapped_in_only_once_what_it_needs_is_there(path: Path) -> None:
    policies, told, loaded = Policies(path, {}), list[Any](), asyncio.Event()

    async def ready(policy: Policy) -> None:
        assert policy.targets["fast"].model == "n"
        await loaded.wait()

    follower = Follower(policies, told.append, ready=ready)
    put(path, OTHER)
    reading = asyncio.create_task(follower.reload())
    while follower._read != look(path) or not loaded._waiters:  # type: ignore[attr-defined]  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert (policies.current.targets["fast"].model, told) == ("m", [])
    loaded.set()
    await reading
    assert (policies.current.targets["fast"].model, told) == ("n", [True])


@pytest.mark.anyio
async def test_a_policy_whose_needs_cannot_be_met_is_refused_like_any_other(path: Path) -> None:
    policies, told = Policies(path, {}), list[Any]()

    async def ready(_: Policy) -> None:
        raise CannotStart("litellm cannot be imported.")

    put(path, OTHER)
    await Follower(policies, told.append, ready=ready).reload()
    assert policies.current.targets["fast"].model == "m"
    assert isinstance(told[0], PolicyError)
    assert "policy.yaml" in str(told[0])
    assert "litellm cannot be imported" in str(told[0])
