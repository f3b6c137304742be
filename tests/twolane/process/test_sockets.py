"""Sockets are bound early, and an unusable address is an error of one line."""

import resource
import socket

import pytest

from twolane.process.errors import ConfigurationError
from twolane.process.sockets import MAX_FILES, bind, is_loopback, raise_descriptor_limit, require_keys, url_of


def test_a_bound_socket_tells_its_url() -> None:
    with bind("127.0.0.1", 0, setting="--port") as bound:
        assert url_of(bound) == f"http://127.0.0.1:{bound.getsockname()[1]}"


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_an_ipv6_address_stands_in_brackets() -> None:
    try:
        bound = bind("::1", 0, setting="--port")
    except ConfigurationError:
        pytest.skip("this machine has no IPv6 loopback address")
    with bound:
        assert url_of(bound).startswith("http://[::1]:")


def test_only_with_a_backlog_it_listens() -> None:
    with bind("127.0.0.1", 0, setting="--port") as bound, pytest.raises(ConnectionRefusedError):
        socket.create_connection(bound.getsockname()[:2])
    with bind("127.0.0.1", 0, setting="--port", backlog=1) as bound:
        socket.create_connection(bound.getsockname()[:2]).close()


def test_a_port_in_use_is_named_with_its_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError) as refused:
            bind("127.0.0.1", port, setting="--port (X_PORT)")
    assert str(refused.value) == f"--port (X_PORT): cannot listen on 127.0.0.1 port {port}: Address already in use"


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid", "a" * 80])
def test_an_address_that_is_not_ours_is_named(host: str) -> None:
    """With the system's error message."""
    with pytest.raises(ConfigurationError, match=f"--host: cannot listen on {host} port 0: .") as refused:
        bind(host, 0, setting="--host")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("host", "is_one"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("example.com", False),
        ("", False),
    ],
)
def test_addresses_that_others_can_reach_require_keys(host: str, is_one: bool) -> None:
    assert is_loopback(host) is is_one
    if is_one:
        require_keys(host=host, flag="--host", variable="X_HOST", prefix="X_")
        return
    with pytest.raises(ConfigurationError, match=r"^--host .*\(X_HOST\): .* require a keys file; .* X_KEYS_FILE$"):
        require_keys(host=host, flag="--host", variable="X_HOST", prefix="X_")


def test_the_limit_of_open_files_is_raised_to_what_the_system_permits() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, before[1]))
        raise_descriptor_limit()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert (soft in (hard, MAX_FILES), hard) == (True, before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
