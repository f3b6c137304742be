"""Settings: flags precede variables, which precede defaults; every error is one line that names its source."""

# ruff: noqa: RUF009 - `setting` makes a dataclass field

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from twolane.process.errors import ConfigurationError
from twolane.process.flags import OneLineParser
from twolane.process.setting_kinds import SWITCH, Kind, number, one_of, path, seconds, text, whole
from twolane.process.settings import SettingsHelp, SettingsSchema, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A record with a setting of every kind."""

    source: str = setting(text("PLACE"), "where it comes from")
    port: int = setting(whole(0, 65535), "port; 100% of it", default=80)
    wait_s: float = setting(seconds(), "longest wait", default=2.0)
    grace_s: float = setting(seconds(may_be_zero=True), "time to finish", default=0.5)
    least: float | None = setting(number("SHARE", 0.0, 0.5), "least share", default=None)
    exact: bool = setting(SWITCH, "exact results", default=False)
    log: str = setting(one_of("plain", "json"), "log format", default="plain")
    a_file_with_a_very_long_name: Path | None = setting(path(), "a file", default=None)
    store_url: str | None = setting(text("URL"), "a store", default=None, fallback="STORE_URL", is_secret=True)
    sockets: tuple[int, ...] = setting(
        Kind(metavar="N", parse=lambda given: tuple(map(int, given.split(",")))),
        "of a parent",
        default=(),
        is_internal=True,
    )


SCHEMA = SettingsSchema(record=Settings, prefix="APP_", retired={"APP_HOLD_S": "APP_WAIT_S", "OLD_PORT": "APP_PORT"})


def parser() -> argparse.ArgumentParser:
    made = OneLineParser(prog="app", allow_abbrev=False, formatter_class=SettingsHelp)
    SCHEMA.add_flags(made)
    return made


def read(*line: str, needed: bool = True, **environment: str) -> Settings:
    arguments = [*(["--source", "here"] if needed else []), *line]
    return SCHEMA.read(environment, SCHEMA.flags_in(parser().parse_args(arguments)))


def refusal(*line: str, **environment: str) -> str:
    with pytest.raises(ConfigurationError) as refused:
        read(*line, **environment)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_flag_takes_precedence_over_its_variable_and_that_over_the_default() -> None:
    assert read().port == 80
    assert read(APP_PORT="81", PORT="1").port == 81
    assert read("--port", "82", APP_PORT="81").port == 82


def test_a_setting_without_a_default_is_required_from_either_source() -> None:
    assert read(needed=False, APP_SOURCE="there").source == "there"
    with pytest.raises(ConfigurationError, match=r"--source \(or APP_SOURCE\) is required: where it comes from"):
        read(needed=False)


@pytest.mark.parametrize(
    ("name", "value", "cause"),
    [
        ("port", "many", "'many' is not a whole number"),
        ("port", "70000", "70000 is not between 0 and 65535"),
        ("port", "tcp://10.0.0.1:80", "'tcp://10.0.0.1:80' is not a whole number"),
        ("port", "", "'' is not a whole number"),
        ("wait_s", "soon", "'soon' is not a number of seconds"),
        ("wait_s", "0", "0 is not between 0 and 3600 seconds"),
        ("wait_s", "nan", "nan is not between 0 and 3600 seconds"),
        ("grace_s", "-1", "-1 is not between 0 and 3600 seconds"),
        ("grace_s", "3601", "3601 is not between 0 and 3600 seconds"),
        ("least", "few", "'few' is not a number"),
        ("least", "0.6", "0.6 is not between 0 and 0.5"),
        ("least", "nan", "nan is not between 0 and 0.5"),
        ("log", "xml", "'xml' is not one of plain, json"),
        ("a_file_with_a_very_long_name", " ", "must not be empty"),
    ],
)
def test_a_wrong_value_is_named_by_where_it_came_from(name: str, value: str, cause: str) -> None:
    assert refusal(f"--{name.replace('_', '-')}={value}") == f"--{name.replace('_', '-')}: {cause}"
    assert refusal(**{f"APP_{name.upper()}": value}) == f"APP_{name.upper()}: {cause}"


def test_zero_is_a_duration_where_that_is_said() -> None:
    assert read("--grace-s", "0").grace_s == 0.0


def test_a_switch_is_a_flag_without_a_value_and_a_variable_that_is_true_or_false() -> None:
    assert not read().exact
    assert read("--exact").exact
    assert read(APP_EXACT="1").exact
    assert read(APP_EXACT="True").exact
    assert not read("--no-exact", APP_EXACT="true").exact
    assert refusal(APP_EXACT="maybe") == "APP_EXACT: 'maybe' is not one of true, false, 1, 0"


@pytest.mark.parametrize(
    "line", [["--exact", "false"], ["--exact=false"], ["--por", "1"], ["--port"], ["--sockets", "1,2"]]
)
def test_a_flag_that_cannot_be_parsed_is_one_line(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A switch takes no value, a flag is written in full, and an internal setting has none."""
    with pytest.raises(SystemExit, match="2"):
        read(*line)
    told = capsys.readouterr().err
    assert told.startswith("app: ")
    assert told.count("\n") == 1


def test_an_empty_value_unsets_an_optional_setting() -> None:
    """Compose files write `VARIABLE: ${VARIABLE:-}`."""
    assert read(APP_A_FILE_WITH_A_VERY_LONG_NAME="").a_file_with_a_very_long_name is None


def test_a_variable_of_the_platform_is_used_where_ours_is_not_set() -> None:
    assert read(STORE_URL="theirs").store_url == "theirs"
    assert read(STORE_URL="theirs", APP_STORE_URL="ours").store_url == "ours"
    assert read(STORE_URL="theirs", APP_STORE_URL="").store_url is None
    assert read(STORE_URL="").store_url is None


def test_a_secret_is_not_in_the_record_as_text() -> None:
    settings = read("--store-url", "redis://:hidden@host")
    assert settings.store_url == "redis://:hidden@host"
    assert "hidden" not in repr(settings)


@pytest.mark.parametrize(("variable", "near"), [("APP_PROT", "APP_PORT"), ("APP_WAITS", "APP_WAIT_S")])
def test_a_misspelt_variable_is_refused_with_the_nearest_name(variable: str, near: str) -> None:
    assert refusal(**{variable: "1"}) == f"{variable}: unknown setting; did you mean {near}?"


def test_a_retired_variable_is_refused_with_its_new_name() -> None:
    """Also if its prefix was different."""
    assert refusal(APP_HOLD_S="1") == "APP_HOLD_S was renamed: use APP_WAIT_S"
    assert refusal(OLD_PORT="1") == "OLD_PORT was renamed: use APP_PORT"


def test_an_unknown_variable_is_refused_unless_the_prefix_is_used_for_other_things() -> None:
    assert refusal(APP_COLOUR="blue") == "APP_COLOUR: unknown setting"
    shared = SettingsSchema(
        record=Settings, prefix="APP_", shares_prefix_with=("APP_WORKER_",), refuse_every_unknown=False
    )
    others = {"APP_COLOUR": "blue", "APP_WORKER_PORT": "1", "APP_SOURCE": "x"}
    assert shared.read(others, {}) == Settings(source="x")
    with pytest.raises(ConfigurationError, match="did you mean APP_PORT"):
        shared.read({**others, "APP_PROT": "1"}, {})


@pytest.mark.parametrize(
    "variable",
    ["APP_SERVICE_HOST", "APP_SERVICE_PORT", "APP_SERVICE_PORT_HTTP", "APP_PORT_80_TCP", "APP_PORT_80_TCP_ADDR"],
)
def test_variables_that_kubernetes_sets_for_a_service_of_our_name_are_ignored(variable: str) -> None:
    assert read(**{variable: "x"}) == read()


def test_an_internal_setting_has_a_variable_only() -> None:
    assert read(APP_SOCKETS="3,4").sockets == (3, 4)


@pytest.mark.parametrize(
    "line", [[], ["--port", "1", "--exact"], ["--no-exact"], ["--a-file-with-a-very-long-name=-x", "--log", "json"]]
)
def test_flags_can_be_handed_on_to_another_process(line: list[str]) -> None:
    flags = SCHEMA.flags_in(parser().parse_args(["--source", "a b", *line]))
    assert SCHEMA.flags_in(parser().parse_args(SCHEMA.command_line(flags))) == flags


def test_help_shows_every_flag_with_its_default_and_variable_in_one_column(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    lines = parser().format_help().splitlines()
    assert "  --port N                    port; 100% of it" in lines
    assert "                              [default: 80; APP_PORT]" in lines
    assert "                              [required; APP_SOURCE]" in lines
    assert "                              [default: 2; APP_WAIT_S]" in lines
    assert "                              [default: off; APP_EXACT]" in lines
    assert "                              [default: unset; APP_STORE_URL]" in lines
    at = lines.index("  --a-file-with-a-very-long-name FILE")
    assert lines[at + 1] == "                              a file"
    assert "sockets" not in "\n".join(lines)


def test_no_flag_runs_into_its_explanation_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    listed = parser().format_help().split("options:\n")[1].splitlines()
    assert all(line[:2] == "  " and (line[2] == "-" or not line[:24].strip()) for line in listed)


def test_flags_in_ignores_what_is_not_a_setting() -> None:
    given: Mapping[str, Any] = {"port": "1", "run": print, "sockets": "3"}
    assert SCHEMA.flags_in(argparse.Namespace(**given)) == {"port": "1"}
