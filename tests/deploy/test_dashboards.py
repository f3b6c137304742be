"""The dashboards match their code, follow the rules of Grafana's dashboard-linter, and use only existing metrics."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from deploy.grafana.__main__ import FOLDER, main
from deploy.grafana.boards import BOARDS
from deploy.grafana.panels import Kind
from tests.deploy.known import OF_PROMETHEUS, ROOT, exported, metrics, recorded
from tests.deploy.promql import filled_in, selectors

PAGES = {board.uid: json.loads((FOLDER / f"{board.uid}.json").read_text()) for board in BOARDS}
RATE_INTERVAL_S = 60.0  # the value of $__rate_interval in promql.filled_in
RANGE_S = 3600.0


def panels(page: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All panels except headings."""
    return (panel for panel in page["panels"] if panel["type"] != "row")


PANELS = [
    pytest.param(panel, id=f"{uid}: {panel['title'].replace('->', 'to')}")
    for uid, page in PAGES.items()
    for panel in panels(page)
]


def test_the_folder_holds_what_the_code_says() -> None:
    assert main(["--check"]) == 0


def test_a_stale_or_strange_file_is_found_and_mended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("deploy.grafana.__main__.FOLDER", tmp_path)
    (tmp_path / "old.json").write_text("{}")
    assert main(["--check"]) == 1
    assert main([]) == 0
    assert {file.name for file in tmp_path.iterdir()} == {file.name for file in FOLDER.iterdir()}
    (tmp_path / "twolane-lanes.json").write_text("{}")
    assert main(["--check"]) == 1


def test_every_page_lets_its_reader_choose_source_job_and_instance() -> None:
    """template-datasource, template-job, template-instance, template-on-time-change-reload, uneditable."""
    for page in PAGES.values():
        assert page["editable"] is False
        source, *others = page["templating"]["list"]
        assert (source["type"], source["name"], source["query"]) == ("datasource", "datasource", "prometheus")
        assert [variable["name"] for variable in others[:2]] == ["job", "instance"]
        for variable in others:
            assert variable["datasource"]["uid"] == "${datasource}"
            # All jobs are those that export the metric, not all of the Prometheus.
            every = None if variable["name"] == "job" else ".+"
            assert (variable["multi"], variable["includeAll"], variable.get("allValue")) == (True, True, every)
            assert variable["refresh"] == 2
            assert _names(variable["query"].split("(")[1].split("{")[0].split(",")[0]) <= exported()


def test_the_first_page_is_about_routes_and_asks_questions_of_a_chosen_route_and_target() -> None:
    assert BOARDS[0].uid == "twolane-routes"
    page = PAGES["twolane-routes"]
    assert [variable["name"] for variable in page["templating"]["list"]][3:] == ["route", "target", "key"]
    assert page["templating"]["list"][-1]["label"] == "Tenant (API key)"
    for panel in panels(page):
        assert panel["title"].endswith("?")
        for target in panel["targets"]:
            found = [one for one in selectors(filled_in(target["expr"])) if one.name != "twolane_policy_info"]
            assert any({"route", "target", "key"} & one.labels for one in found), panel["title"]


def test_every_count_by_key_is_a_panel_of_the_chosen_tenant() -> None:
    """Requests, errors, refusals, tokens and money."""
    asked = [
        selector
        for panel in panels(PAGES["twolane-routes"])
        for target in panel["targets"]
        for selector in selectors(filled_in(target["expr"]))
        if selector.name.startswith("twolane_key_")
    ]
    assert {selector.name for selector in asked} == {name for name in metrics() if name.startswith("twolane_key_")}
    assert all("key" in selector.labels for selector in asked)


def test_changes_of_policies_and_restarts_are_marked_on_every_page() -> None:
    for page in PAGES.values():
        marks = {mark["name"]: mark["expr"] for mark in page["annotations"]["list"]}
        assert marks.keys() == {"Policy", "Restart"}
        for expr in marks.values():
            assert all(one.name in exported() for one in selectors(filled_in(expr)))


def test_a_number_that_can_be_bad_turns_red() -> None:
    """100 % of failed requests must not be green."""
    for board in BOARDS:
        for panel in board.panels:
            if panel.kind is Kind.NUMBER and panel.unit == "percentunit":
                assert panel.thresholds, panel.title
            assert list(panel.thresholds) == sorted(panel.thresholds, key=lambda each: each.at)
            if panel.thresholds:
                (drawn,) = [each for each in panels(PAGES[board.uid]) if each["title"] == panel.title]
                steps = drawn["fieldConfig"]["defaults"]["thresholds"]["steps"]
                assert (steps[0]["color"], steps[-1]["color"]) == ("green", "red")


def test_titles_and_numbers_of_a_page_are_its_own() -> None:
    for page in PAGES.values():
        titles = [panel["title"] for panel in panels(page)]
        assert len(set(titles)) == len(titles)
        numbers = [panel["id"] for panel in page["panels"]]
        assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_says_what_it_shows_in_which_unit_and_from_where(panel: dict[str, Any]) -> None:
    """panel-title-description, panel-units, panel-datasource, panel-no-targets."""
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["targets"]
    for asker in (panel, *panel["targets"]):
        assert asker["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert all(target["legendFormat"] for target in panel["targets"])
    assert panel["options"]


@pytest.mark.parametrize("panel", PANELS)
def test_a_query_parses_keeps_to_its_instances_and_rates_its_counters(panel: dict[str, Any]) -> None:
    """target-promql, target-job, target-instance, target-rate-interval, target-counter-agg; and no dead name."""
    for target in panel["targets"]:
        found = selectors(filled_in(target["expr"]))
        assert found
        for selector in found:
            assert selector.name in exported() | recorded() | OF_PROMETHEUS
            assert "job" in selector.labels
            assert "instance" in selector.labels or selector.name in recorded()
            is_counter = selector.name.endswith(("_total", "_bucket", "_sum", "_count"))
            assert is_counter == (selector.rate_window_s is not None), selector
            assert selector.rate_window_s in (None, RATE_INTERVAL_S, RANGE_S)


def test_no_metric_goes_unseen() -> None:
    """Every exported metric is shown on a dashboard."""
    asked = [
        selectors(filled_in(target["expr"])) for page in PAGES.values() for p in panels(page) for target in p["targets"]
    ]
    seen = {re.sub("_(bucket|sum|count)$", "", selector.name) for found in asked for selector in found}
    assert metrics() - seen == set()


def test_grafana_is_told_where_the_files_and_the_data_are() -> None:
    """Provisioning: one file of data sources, one of dashboards; the scrape interval is Prometheus' own."""
    provisioning = ROOT / "deploy/grafana/provisioning"
    source = YAML(typ="safe").load(provisioning / "datasources/prometheus.yaml")["datasources"][0]
    scrape = YAML(typ="safe").load(ROOT / "deploy/prometheus/prometheus.yml")["global"]["scrape_interval"]
    assert (source["type"], source["jsonData"]["timeInterval"]) == ("prometheus", scrape)
    (provider,) = YAML(typ="safe").load(provisioning / "dashboards/twolane.yaml")["providers"]
    assert (provider["type"], provider["allowUiUpdates"]) == ("file", False)


def _names(text: str) -> set[str]:
    return {text.strip()}
