"""Dashboards and alerts on live data: every panel has data, every picture has content, every alert has series."""

import asyncio
import os
import re
import shutil
from collections import Counter

import pytest
from PIL import Image

from deploy.grafana.boards import BOARDS
from deploy.grafana.drawing import COLOURS, STATE_COLOURS, WIDTH, layout
from deploy.grafana.panels import Board, Kind
from tests.deploy.known import ROOT, metrics
from tests.deploy.night import LANES, OVER_LIMIT, TENANTS, Night, play
from twolane.bench.load import OK

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
TARGETS = ("fast", "careful", "quality", "provider")
NEEDED = ("prometheus", "chromium", "redis-server")


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Night:
    """Runs the scenario once; its pictures stay in build/dashboards."""
    missing = [program for program in NEEDED if shutil.which(program) is None]
    if missing and not os.environ.get("CI"):
        pytest.skip(f"no {missing[0]}; `make prometheus chromium redis` installs it")
    return asyncio.run(play(tmp_path_factory.mktemp("night"), ROOT / "build/dashboards"))


def test_the_night_was_as_bad_as_it_should_be(night: Night) -> None:
    """Otherwise the other tests would check nothing."""
    outcomes = Counter(sample.outcome for sample in night.samples)
    assert outcomes[OK] > 50
    assert outcomes.total() > outcomes[OK]
    assert {sample.headers.get("target") for sample in night.samples} >= LANES


def test_every_query_of_every_panel_has_numbers(night: Night) -> None:
    assert not night.complaints


def test_a_tenants_page_names_each_tenant_and_shows_who_is_over_its_limit(night: Night) -> None:
    seen = {
        answered.panel.title: {one.name: max(value for _, value in one.points) for one in answered.curves if one.points}
        for answered in night.answers["twolane-routes"]
    }
    assert seen["Who sends requests?"].keys() == set(TENANTS)
    assert seen[OVER_LIMIT]["batch"] > 0
    assert seen[OVER_LIMIT]["shop"] == seen[OVER_LIMIT]["wiki"] == 0
    assert {f"{name} {kind}" for name in TENANTS for kind in ("input", "output")} == seen["Who uses tokens?"].keys()
    assert max(seen["Who spends money?"].values()) > 0


def test_the_statuses_of_targets_are_those_that_they_sent(night: Night) -> None:
    (panel,) = [each for each in night.answers["twolane-routes"] if each.panel.title.startswith("Which HTTP status")]
    names = {one.name for one in panel.curves}
    assert {"fast 200", "quality 200"} <= names
    assert names <= {
        f"{target} {status}" for target in TARGETS for status in (200, 400, 422, 429, 500, 502, 503, "none")
    }


def test_what_the_programs_say_they_export_is_exported_and_nothing_else_of_ours(night: Night) -> None:
    told = {name for page in night.pages.values() for name in re.findall(r"^# TYPE (\S+)", page, re.MULTILINE)}
    assert {name for name in told if name.startswith(("twolane_", "gen_ai_"))} == metrics()


def test_prometheus_evaluates_every_rule_and_sees_the_policy_that_does_not_load(night: Night) -> None:
    assert all(rule["health"] == "ok" and not rule.get("lastError") for rule in night.rules)
    states = {rule["name"]: rule["state"] for rule in night.rules if rule["type"] == "alerting"}
    assert states["TwolanePolicyNotReloaded"] in ("pending", "firing")
    assert states["TwolaneRequestsFail"] in ("pending", "firing")
    assert states["TwolaneDown"] == states["TwolaneRedisLost"] == states["TwolaneDecisionsDropped"] == "inactive"


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_no_panel_of_a_picture_is_blank(night: Night, board: Board) -> None:
    picture = Image.open(night.pictures / f"{board.uid}.png").convert("RGB")
    boxes, height = layout(board)
    assert picture.size == (WIDTH, height)
    for panel, box in zip(board.panels, boxes, strict=True):
        part = picture.crop((box.left, box.top, box.left + box.width, box.top + box.height))
        by_state = panel.kind is Kind.STATES or (panel.kind is Kind.NUMBER and panel.thresholds)
        colours = STATE_COLOURS.values() if by_state else COLOURS
        counts = Counter({colour: count for count, colour in part.getcolors(maxcolors=1 << 20) or ()})
        seen = sum(counts[_rgb(colour)] for colour in colours)
        assert seen > 40, f"{panel.title}: {seen} pixels"


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))
