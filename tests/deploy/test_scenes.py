"""The page "Routes" names the cause of each night in one panel, at real processes."""

import asyncio
import shutil
from collections.abc import Mapping

import pytest

from deploy.grafana.answers import Answered, Window
from tests.deploy.known import ROOT
from tests.deploy.scenes import SCENES, play

pytestmark = [pytest.mark.deploy, pytest.mark.slow, pytest.mark.timeout(1800)]
CAUSES = {
    "slow-worker": "edits p95_breach",
    "invalid-output": "forms invalid_output",
    "expired-key": "chat upstream_auth",
}
Nights = Mapping[str, tuple[Window, tuple[Answered, ...]]]


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Nights:
    missing = [program for program in ("prometheus", "redis-server") if shutil.which(program) is None]
    if missing:
        pytest.skip(f"no {missing[0]}; `make prometheus redis` installs it")
    return asyncio.run(play(tmp_path_factory.mktemp("scenes")))


def test_every_scene_has_a_cause_and_a_picture() -> None:
    assert set(CAUSES) == set(SCENES)
    text = (ROOT / "docs/operations/night.md").read_text()
    for name in SCENES:
        assert f"(pictures/{name}.png)" in text
        assert (ROOT / f"docs/operations/pictures/{name}.png").exists()


@pytest.mark.parametrize("scene", SCENES)
def test_the_most_frequent_reason_of_a_fallback_is_the_cause(nights: Nights, scene: str) -> None:
    answers = nights[scene][1]
    (panel,) = [each for each in answers if each.panel.title == "Why did responses change target?"]
    latest = {one.name: one.points[-1][1] for one in panel.curves if one.points}
    assert max(latest, key=lambda name: latest[name]) == CAUSES[scene], latest


@pytest.mark.parametrize("scene", SCENES)
def test_nobody_gets_an_error_that_a_fallback_avoids(nights: Nights, scene: str) -> None:
    (panel,) = [each for each in nights[scene][1] if each.panel.title == "How many requests fail through our fault?"]
    assert panel.curves[0].points[-1][1] == 0
