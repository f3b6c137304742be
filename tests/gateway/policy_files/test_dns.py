"""DNS discovery: endpoints join and leave a running policy; a failing name server changes nothing."""

import asyncio
import socket
from pathlib import Path

import pytest

from gateway.errors import PolicyError
from gateway.policy_files import watch
from gateway.policy_files.dns import Resolver, look_up
from gateway.policy_files.load import parse
from gateway.policy_files.watch import Policies, PolicyWatcher
from gateway.routing.policy import Policy

POLICY = """
version: 1
targets:
  fast: {kind: worker, url: "http://workers:8001", model: m, location: in_cluster, resolve: dns}
routes:
  - {name: all, use: fast}
"""


class Names:
    """A fake name server."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self.is_away = False
        self.says: int | None = None

    def __call__(self, host: str, port: int) -> tuple[str, ...]:
        if self.says is not None:
            raise socket.gaierror(self.says, "nobody")
        if self.is_away or not self.addresses:
            raise OSError("no answer")
        assert (host, port) == ("workers", 8001)
        return self.addresses


def urls(policy: Policy) -> list[str]:
    return [place.url for place in policy.endpoints]


def policies(folder: Path, names: Names) -> Policies:
    file = folder / "policy.yaml"
    file.write_text(POLICY)
    return Policies(file, {}, Resolver(names))


def test_each_address_is_an_endpoint_named_after_it(tmp_path: Path) -> None:
    policy = policies(tmp_path, Names("10.0.0.1", "fd00::1")).current
    assert urls(policy) == ["http://10.0.0.1:8001", "http://[fd00::1]:8001"]
    assert [place.name for place in policy.endpoints] == ["fast/10.0.0.1:8001", "fast/[fd00::1]:8001"]
    assert {place.policy_name for place in policy.endpoints} == {"fast"}


def test_a_leaving_endpoint_does_not_rename_others_and_a_failing_name_server_removes_none(tmp_path: Path) -> None:
    names = Names("10.0.0.1", "10.0.0.2")
    it = policies(tmp_path, names)
    before = {place.url: place.name for place in it.current.endpoints}
    assert not it.endpoints_changed()
    names.is_away = True
    assert not it.endpoints_changed()
    assert urls(it.prepare()) == sorted(before)
    names.is_away, names.addresses = False, ("10.0.0.2", "10.0.0.3")
    assert it.endpoints_changed()
    after = {place.url: place.name for place in it.prepare().endpoints}
    assert after["http://10.0.0.2:8001"] == before["http://10.0.0.2:8001"]
    assert not it.endpoints_changed()


@pytest.mark.parametrize("code", [socket.EAI_NONAME, socket.EAI_NODATA])
def test_a_name_without_addresses_has_no_endpoints(tmp_path: Path, code: int) -> None:
    names = Names("10.0.0.1")
    it = policies(tmp_path, names)
    names.says = code
    assert it.endpoints_changed()
    assert urls(it.prepare()) == ["http://workers:8001"]
    assert not it.endpoints_changed()


def test_a_name_that_never_resolved_has_no_endpoints(tmp_path: Path) -> None:
    assert urls(policies(tmp_path, Names()).current) == ["http://workers:8001"]


@pytest.mark.anyio
async def test_a_running_policy_follows_dns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "RESOLVE_EVERY_S", 0.0)
    names, told = Names("10.0.0.1"), asyncio.Event()
    it = policies(tmp_path, names)
    version = it.current.version
    following = asyncio.create_task(PolicyWatcher(it, lambda _: told.set()).run(0.01))
    try:
        names.addresses = ("10.0.0.1", "10.0.0.2")
        async with asyncio.timeout(120):
            await told.wait()
        assert urls(it.current) == ["http://10.0.0.1:8001", "http://10.0.0.2:8001"]
        assert it.current.version == version, "the same policy: it says the same"
    finally:
        following.cancel()


def test_names_are_looked_up_with_the_system_resolver() -> None:
    assert look_up("127.0.0.1", 80) == ("127.0.0.1",)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("resolve: dns", "resolve: srv"), "targets.fast.resolve: unknown resolver; allowed: dns"),
        (("http://workers", "https://workers"), "targets.fast.resolve: `resolve: dns` requires exactly one `url`"),
        (
            ('url: "http://workers:8001"', 'urls: ["http://a", "http://b"]'),
            "targets.fast.resolve: `resolve: dns` requires",
        ),
    ],
)
def test_an_invalid_resolve_is_refused(change: tuple[str, str], says: str) -> None:
    with pytest.raises(PolicyError, match=says.replace("[", r"\[")):
        parse(POLICY.replace(*change), {})
