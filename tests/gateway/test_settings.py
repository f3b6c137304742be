"""Settings of the gateway: defaults, and incompatible values. tests/twolane/process covers their parsing."""

from pathlib import Path

import pytest

from gateway.settings import SCHEMA, Settings, read_settings
from twolane.process.errors import ConfigurationError


def test_by_default_it_listens_on_loopback_without_keys_and_without_a_log() -> None:
    settings = read_settings({}, {})
    assert (settings.host, settings.port) == ("127.0.0.1", 8080)
    assert (settings.admin_host, settings.admin_port) == ("127.0.0.1", 8090)
    assert settings.keys_file is None
    assert settings.decision_log is None


def test_a_flag_takes_precedence_over_the_environment() -> None:
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
        ("TWOLANE_CONNECT_S", "0"),
        ("TWOLANE_HEARTBEAT_S", "nan"),
        ("TWOLANE_DRAIN_S", "-1"),
        ("TWOLANE_LOG", "xml"),
        ("TWOLANE_HANDED_DOWN", "1,2"),
        ("TWOLANE_HANDED_DOWN", "a,b,c"),
    ],
)
def test_a_wrong_value_names_its_variable(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        read_settings({name: value}, {})


def test_a_misspelt_variable_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="TWOLANE_PROT: unknown setting; did you mean TWOLANE_PORT"):
        read_settings({"TWOLANE_PROT": "9000"}, {})


@pytest.mark.parametrize(("variable", "near"), [("KEYS", "KEYS_FILE"), ("POLICY_FILE", "POLICY"), ("LOG_LEVEL", "LOG")])
def test_a_variable_with_words_missing_or_added_is_refused(variable: str, near: str) -> None:
    with pytest.raises(
        ConfigurationError, match=f"TWOLANE_{variable}: unknown setting; did you mean TWOLANE_{near}\\?"
    ):
        read_settings({f"TWOLANE_{variable}": "x"}, {})


def test_variables_of_orchestrators_policies_and_the_worker_are_ignored() -> None:
    others = {
        "TWOLANE_SERVICE_HOST": "x",
        "TWOLANE_SERVICE_PORT": "1",
        "TWOLANE_PORT_8080_TCP": "x",
        "TWOLANE_GATEWAY_PORT": "tcp://10.0.0.1:8080",
        "TWOLANE_REDIS_PORT": "tcp://10.0.0.1:6379",
        "TWOLANE_POLICY_PORT": "tcp://10.0.0.1:80",
        "TWOLANE_WORKER_PORT": "x",
        "TWOLANE_OPENAI_KEY": "sk-of-a-policy",
    }
    assert read_settings(others, {}) == Settings()


@pytest.mark.parametrize("name", ["TWOLANE_HOST", "TWOLANE_ADMIN_HOST"])
def test_a_non_loopback_address_requires_a_keys_file(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name}.*TWOLANE_KEYS_FILE"):
        read_settings({name: "0.0.0.0"}, {})
    assert read_settings({name: "0.0.0.0", "TWOLANE_KEYS_FILE": "keys"}, {})
    assert read_settings({name: "::1"}, {})
    assert read_settings({name: "localhost"}, {})


def test_the_platforms_redis_is_used_where_ours_is_not_set() -> None:
    assert read_settings({"REDIS_URL": "redis://theirs"}, {}).redis_url == "redis://theirs"
    assert read_settings({"REDIS_URL": "redis://theirs", "TWOLANE_REDIS_URL": ""}, {}).redis_url is None


def test_a_redis_password_does_not_show() -> None:
    assert "secret" not in repr(Settings(redis_url="redis://:secret@host"))


def test_no_setting_is_retired_that_is_still_in_use() -> None:
    known = {SCHEMA.variable(name) for name in Settings.__dataclass_fields__}
    assert not set(SCHEMA.retired) & known
    assert {use for use in SCHEMA.retired.values() if not use.endswith("in the policy")} <= known


def test_the_idle_timeout_is_no_setting_any_more_but_a_key_of_a_target() -> None:
    with pytest.raises(ConfigurationError, match="TWOLANE_IDLE_S was renamed: use `idle_s` of a target in the policy"):
        read_settings({"TWOLANE_IDLE_S": "30"}, {})
