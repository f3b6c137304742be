"""Alerts and recording rules load, use only existing metrics, have a runbook, and are tested firing and not firing."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from deploy.grafana.boards import BOARDS
from deploy.prometheus import links
from deploy.prometheus.__main__ import main
from tests.deploy.known import OF_PROMETHEUS, ROOT, RULES, exported, read_rules, recorded, rules
from tests.deploy.promql import selectors
from twolane.admin.command import parse

TESTS = sorted((ROOT / "deploy/prometheus/tests").glob("*.yml"))
ALERTS = {str(rule["alert"]): rule for rule in rules("alert")}
RUNBOOKS = "docs/operations/runbooks.md"


@pytest.fixture
def promtool() -> str:
    """Prometheus' own tool; skips where there is none (`make prometheus` installs it)."""
    found = shutil.which("promtool")
    if found is None and not os.environ.get("CI"):
        pytest.skip("no promtool; `make prometheus` installs it")
    return found or "promtool"


def test_every_rule_parses_and_names_only_what_exists() -> None:
    for rule in (*rules("alert"), *rules("record")):
        for selector in selectors(str(rule["expr"])):
            assert selector.name in exported() | recorded() | OF_PROMETHEUS, selector


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_says_how_urgent_it_is_and_what_to_do(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"] in ({"severity": "page"}, {"severity": "ticket"})
    assert isinstance(rule["annotations"], dict)
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url", "dashboard_url"}
    assert rule["annotations"]["runbook_url"] == f"{links.RUNBOOKS}#{alert.lower()}"
    assert links.RUNBOOKS.endswith(RUNBOOKS)
    board = re.fullmatch(rf"{links.GRAFANA}/d/([\w-]+)(\?var-route=.*)?", rule["annotations"]["dashboard_url"])
    assert board
    assert board[1] in {each.uid for each in BOARDS}
    section = re.search(rf"^## {alert}\n(.*?)(?=^## |\Z)", (ROOT / RUNBOOKS).read_text(), re.DOTALL | re.MULTILINE)
    assert section
    assert len(section[1].split()) > 40, "a section of a few words helps nobody at night"


def test_commands_of_runbooks_run_in_the_images_as_they_are() -> None:
    """`twolane admin` commands parse, and none needs a program that the images do not have."""
    text = (ROOT / RUNBOOKS).read_text()
    lines = re.findall(r"`(?:[^`]* -- )?twolane admin ([^`]*)`", text)
    assert len(lines) > 10
    for line in lines:
        assert callable(parse(line.replace("N", "1").split()).run)
    assert not re.findall(r"`[^`]*\b(curl|wget|py-spy|jq)\b[^`]*`", text)


def test_alerts_can_link_to_runbooks_and_dashboards_elsewhere(tmp_path: Path) -> None:
    line = ["--out", str(tmp_path), "--runbooks", "https://wiki.example.com/r", "--grafana", "https://g.example.com/"]
    assert main(line) == 0
    found = {
        rule["alert"]: rule["annotations"] for rule in read_rules(sorted(tmp_path.glob("*.yml"))) if "alert" in rule
    }
    assert found.keys() == ALERTS.keys()
    for alert, annotations in found.items():
        assert annotations["runbook_url"] == f"https://wiki.example.com/r#{alert.lower()}"
        assert annotations["dashboard_url"].startswith("https://g.example.com/d/twolane-")


def test_no_runbook_is_left_of_an_alert_that_is_gone() -> None:
    headings = re.findall(r"^## (\w+)$", (ROOT / RUNBOOKS).read_text(), re.MULTILINE)
    assert headings == list(ALERTS)


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_is_tried_both_ways(alert: str) -> None:
    """It fires in one unit test, and does not fire in another one with series of its metrics."""
    fires, silent = False, False
    read = {selector.name for selector in selectors(str(ALERTS[alert]["expr"]))}
    read |= {"twolane_slo_events_total"} if any(name in recorded() for name in read) else set()
    for file in TESTS:
        for test in YAML(typ="safe").load(file)["tests"]:
            given = {each["series"].partition("{")[0] for each in test["input_series"]}
            for check in test["alert_rule_test"]:
                if check["alertname"] == alert and given & read:
                    fires, silent = fires or bool(check["exp_alerts"]), silent or not check["exp_alerts"]
    assert fires
    assert silent


@pytest.mark.slow
def test_the_rules_do_what_their_unit_tests_say(promtool: str) -> None:
    _run(promtool, "test", "rules", *TESTS)


def test_prometheus_takes_configuration_and_rules(promtool: str) -> None:
    assert RULES
    _run(promtool, "check", "config", ROOT / "deploy/prometheus/prometheus.yml")


def _run(*line: str | Path) -> None:
    environment = {**os.environ, "GOGC": "400"}  # collecting garbage takes a third of the unit tests' processor time
    done = subprocess.run(line, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
