"""Settings: read once, and wrong ones refuse by name."""

from pathlib import Path

import pytest

from gateway.errors import BadSetting
from gateway.settings import Settings, describe_settings, read_settings


def test_without_anything_said_it_listens_on_loopback() -> None:
    settings = read_settings({}, {})
    assert (settings.host, settings.port, settings.admin_host, settings.admin_port) == (
        "127.0.0.1",
        8080,
        "127.0.0.1",
        8090,
    )
    assert settings.keys_file is None
    assert settings.decision_log is None


def test_a_flag_wins_over_the_environment() -> None:
    settings = read_settings({"TWOLANE_PORT": "1", "TWOLANE_POLICY": "a.yaml"}, {"port": "2"})
    assert (settings.port, settings.policy) == (2, Path("a.yaml"))


def test_an_empty_path_means_none() -> None:
    assert read_settings({"TWOLANE_KEYS_FILE": "", "TWOLANE_DECISION_LOG": ""}, {}) == Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TWOLANE_PORT", "eighty"),
        ("TWOLANE_PORT", "70000"),
        ("TWOLANE_PORT", "tcp://10.0.0.1:80"),
        ("TWOLANE_MAX_BODY_BYTES", "1"),
        ("TWOLANE_IDLE_S", "0"),
        ("TWOLANE_IDLE_S", "nan"),
        ("TWOLANE_DRAIN_S", "-1"),
    ],
)
def test_a_wrong_value_names_its_variable(name: str, value: str) -> None:
    with pytest.raises(BadSetting, match=name):
        read_settings({name: value}, {})


def test_a_wrong_flag_is_named_as_it_was_written() -> None:
    with pytest.raises(BadSetting, match="--admin-port"):
        read_settings({}, {"admin_port": "x"})


def test_a_misspelt_variable_is_not_silently_a_default() -> None:
    with pytest.raises(BadSetting, match="TWOLANE_PROT: no such setting; did you mean TWOLANE_PORT"):
        read_settings({"TWOLANE_PROT": "9000"}, {})


def test_what_orchestrators_and_the_worker_set_does_no_harm() -> None:
    others = {
        "TWOLANE_SERVICE_HOST": "x",
        "TWOLANE_SERVICE_PORT": "1",
        "TWOLANE_PORT_8080_TCP": "x",
        "TWOLANE_WORKER_PORT": "x",
    }
    assert read_settings(others, {}) == Settings()


@pytest.mark.parametrize("name", ["TWOLANE_HOST", "TWOLANE_ADMIN_HOST"])
def test_another_address_than_loopback_needs_a_keys_file(name: str) -> None:
    with pytest.raises(BadSetting, match=f"{name}.*TWOLANE_KEYS_FILE"):
        read_settings({name: "0.0.0.0"}, {})
    assert read_settings({name: "0.0.0.0", "TWOLANE_KEYS_FILE": "keys"}, {})
    assert read_settings({name: "::1"}, {})
    assert read_settings({name: "localhost"}, {})


def test_help_lists_every_setting() -> None:
    listed = describe_settings()
    for name in Settings.__dataclass_fields__:
        assert f"TWOLANE_{name.upper()}" in listed


def test_the_platforms_redis_is_taken_where_ours_is_not_said() -> None:
    assert read_settings({"REDIS_URL": "redis://theirs"}, {}).redis_url == "redis://theirs"
    both = {"REDIS_URL": "redis://theirs", "TWOLANE_REDIS_URL": "redis://ours"}
    assert read_settings(both, {}).redis_url == "redis://ours"
    assert read_settings({**both, "TWOLANE_REDIS_URL": ""}, {}).redis_url is None


def test_a_redis_password_does_not_show() -> None:
    assert "secret" not in repr(Settings(redis_url="redis://:secret@host"))
