"""Addresses of Redis, and what is wrong with them. Errors contain no password."""

import ssl
from pathlib import Path
from typing import Any

import pytest

from gateway.state.redis_address import Topology, read_address
from twolane.process.errors import ConfigurationError

THREE = (("a", 26379), ("b", 1), ("::1", 2))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h", {"options": {"host": "h", "port": 6379}, "hosts": (("h", 6379),)}),
        ("redis://:pass%40@h:1/2", {"options": {"host": "h", "port": 1, "db": 2, "password": "pass@"}}),
        ("redis://u:p@[::1]:7", {"options": {"host": "::1", "port": 7, "username": "u", "password": "p"}}),
        ("redis://", {"options": {"host": "localhost", "port": 6379}}),
        ("rediss://h?ssl_check_hostname=false", {"is_tls": True, "topology": Topology.SERVER}),
        ("unix:///run/redis.sock?db=3", {"options": {"path": "/run/redis.sock", "db": 3}, "hosts": ()}),
        (
            "redis+sentinel://u:p@a,b:1,[::1]:2/mymaster/4?sentinel_username=s&sentinel_password=t%26",
            {
                "topology": Topology.SENTINEL,
                "hosts": THREE,
                "service": "mymaster",
                "options": {"username": "u", "password": "p", "db": 4},
                "sentinel_options": {"username": "s", "password": "t&"},
            },
        ),
        ("rediss+cluster://a:1,b", {"topology": Topology.CLUSTER, "hosts": (("a", 1), ("b", 6379)), "is_tls": True}),
        ("redis+cluster://:p@a:1/", {"options": {"password": "p"}, "is_tls": False}),
    ],
)
def test_an_address_names_one_server_sentinels_or_a_cluster(url: str, expected: dict[str, Any]) -> None:
    address = read_address(url)
    found = {name: getattr(address, name) for name in expected}
    assert found == expected


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("http://:secret@h:1", "unknown scheme; allowed: redis://, rediss://, unix://, redis+sentinel://"),
        ("secret", "unknown scheme"),
        ("redis://:secret@[::1", "not a URL"),
        ("redis://:secret@h:x", "expected HOST or HOST:PORT"),
        ("redis://:secret@h:0", "expected HOST or HOST:PORT"),
        ("redis://:secret@h:65536", "expected HOST or HOST:PORT"),
        ("redis://:secret@a,b", "several hosts need redis+sentinel:// or redis+cluster://"),
        ("redis://:secret@h/db", "expected the number of a database as path"),
        ("redis://:secret@h?db=secret", "Invalid value for 'db'"),
        ("redis://:secret@h?socket_timeout=9", "unknown option 'socket_timeout'; allowed: db, client_name"),
        ("redis://:secret@h?sentinel_password=secret", "unknown option 'sentinel_password'"),
        ("redis://:secret@h?ssl_certfile=c", "the option 'ssl_certfile' requires a URL that begins with rediss"),
        ("redis+sentinel://:secret@h", "expected the service that the sentinels watch"),
        ("redis+sentinel://:secret@a,,b/m", "expected HOST or HOST:PORT"),
        ("redis+sentinel://:secret@a/m/x", "expected the number of a database"),
        ("redis+cluster://:secret@a/1", "a cluster has no databases"),
        ("redis+cluster://:secret@a?db=1", "a cluster has no databases"),
    ],
)
def test_a_wrong_address_is_refused_without_showing_its_password(url: str, cause: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        read_address(url)
    assert str(refused.value).startswith("--redis-url (TWOLANE_REDIS_URL): ")
    assert cause in str(refused.value)
    assert "secret" not in str(refused.value)


def test_neither_is_shown_by_the_record() -> None:
    text = repr(read_address("redis+sentinel://:secret@a/m?sentinel_password=secret"))
    assert "secret" not in text
    assert "'a'" in text


def a_certificate(folder: Path) -> Path:
    [first, *_] = ssl.create_default_context().get_ca_certs(binary_form=True)
    file = folder / "ca.pem"
    file.write_text(ssl.DER_cert_to_PEM_cert(first))
    return file


@pytest.mark.parametrize("scheme", ["rediss", "rediss+sentinel", "rediss+cluster"])
def test_the_file_of_certificates_holds_for_all_servers(scheme: str, tmp_path: Path) -> None:
    file = a_certificate(tmp_path)
    address = read_address(f"{scheme}://h/{'m' * ('sentinel' in scheme)}", file)
    assert address.options["ssl_ca_certs"] == str(file)
    assert address.sentinel_options["ssl_ca_certs"] == str(file)


@pytest.mark.parametrize(
    ("url", "text", "cause"),
    [
        ("redis://h", "", "requires a --redis-url (TWOLANE_REDIS_URL) that begins with rediss"),
        ("rediss://h?ssl_ca_certs=x", "", "or `ssl_ca_certs` in --redis-url (TWOLANE_REDIS_URL), not both"),
        ("rediss://h", "no certificate", "no certificates in PEM format"),
        ("rediss://h", None, "No such file or directory"),
    ],
)
def test_a_wrong_file_of_certificates_is_named_at_start(url: str, text: str | None, cause: str, tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigurationError, match=r"--redis-ca-file \(TWOLANE_REDIS_CA_FILE\)") as refused:
        read_address(url, file)
    assert cause in str(refused.value)
