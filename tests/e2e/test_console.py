"""The console against the real stack: requests of the playground, both lanes, and the canvas step by step."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.gateway.web.console.browser import CHROMIUM, ROOT, GatewayProcess, chromium, open_page
from twolane.process.flags import free_port

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")]

POLICY = """
version: 1
targets:
  fast: {kind: worker, url: "%s", model: diffusion, location: in_cluster}
  careful: {kind: worker, url: "%s", model: "diffusion:verified", location: in_cluster}
  quality: {kind: openai, engine: openai, url: "%s", model: "diffusion:autoregressive", location: external,
            ignore: [metadata, prediction]}
routes:
  - name: edits
    when: {task: [edit, structured, extraction, reasoning, autocomplete]}
    use: fast
    fall_back: [quality]
    slo: {p95_ms: 60000}
  - {name: default, use: quality}
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A worker with the bundled checkpoint, which is also the quality lane, and a gateway."""
    folder: Path = tmp_path_factory.mktemp("stack")
    port = free_port("127.0.0.1")
    url = f"http://127.0.0.1:{port}"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TWOLANE_")}
    line = [sys.executable, "-m", "twolane", "worker", "--checkpoint", str(ROOT / "checkpoints" / "twolane-tiny")]
    worker = subprocess.Popen(
        [*line, "--port", str(port), "--threads", "1"], cwd=ROOT, env=kept, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    (folder / "policy.yaml").write_text(POLICY % (url, url, url))
    made = GatewayProcess(folder / "policy.yaml", kept)
    try:
        _until_ready(f"{url}/health")
        made.start()
        yield made
        made.stop()
    finally:
        worker.terminate()
        worker.wait(30)


def _until_ready(url: str) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(url).close()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"{url} is not ready")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as launched:
        yield launched


@pytest.fixture
def page(browser: Browser, gateway: GatewayProcess) -> Iterator[Page]:
    with open_page(browser) as made:
        made.page.goto(gateway.console)
        expect(made.page.get_by_role("status").filter(has_text="live")).to_be_visible()
        yield made.page
        assert made.problems == []


def sample(page: Page, name: str) -> None:
    page.get_by_role("group", name="Samples").get_by_role("button", name=name, exact=True).click()


@pytest.mark.parametrize(
    ("name", "target", "answer"),
    [
        ("Edit", "fast", "remove stale cache from session"),
        ("JSON Schema", "fast", '{"name":"anna","qty":3,"item":"red lamp","day":"monday"}'),
        ("Sudoku", "fast", "1234341243212143|[1-4]{16}"),
        ("Tools", "fast|quality", "order\\("),
        ("Question", "quality", "."),
        ("Fill in", "fast", "."),
    ],
)
def test_every_sample_is_answered_and_explained(page: Page, name: str, target: str, answer: str) -> None:
    sample(page, name)
    page.get_by_role("button", name="Send", exact=True).click()
    shown = page.get_by_role("article")
    expect(shown.get_by_role("heading", name=re.compile(target))).to_be_visible()
    pattern = re.escape(answer) if name in ("Edit", "JSON Schema") else answer
    expect(shown.get_by_label("Text of the answer")).to_have_text(re.compile(pattern))
    expect(shown).to_contain_text("Task")
    expect(shown).to_contain_text("in total, of which")
    expect(shown.get_by_role("row").filter(has_text=re.compile(target)).last).to_contain_text(re.compile("[0-9.]+ m?s"))


def test_questions_are_answered_with_probabilities(page: Page) -> None:
    sample(page, "Decisions")
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.get_by_role("article")).to_contain_text("probability")


def test_both_lanes_answer_side_by_side(page: Page) -> None:
    page.get_by_role("button", name="Both lanes side by side").click()
    expect(page.get_by_role("article")).to_have_count(2)
    for number, target in enumerate(("fast", "quality")):
        expect(page.get_by_role("article").nth(number).get_by_role("heading", name=target)).to_be_visible()


def test_the_snippets_are_the_request_itself(page: Page, gateway: GatewayProcess) -> None:
    sample(page, "JSON Schema")
    curl = page.get_by_role("tabpanel").inner_text()
    assert f"http://127.0.0.1:{gateway.port}/v1/chat/completions" in curl
    body = json.loads(curl.partition("-d '")[2].rpartition("'")[0].replace("'\\''", "'"))
    assert body["response_format"]["json_schema"]["name"] == "order"
    page.get_by_role("tab", name="openai").click()
    python = page.get_by_role("tabpanel").locator("pre").inner_text()
    compile(python, "snippet", "exec")
    assert f'base_url="http://127.0.0.1:{gateway.port}/v1"' in python


@pytest.mark.parametrize("name", ["Edit", "Tools", "Fill in", "Decisions"])
def test_the_snippet_for_the_client_runs_as_it_is(page: Page, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    sample(page, name)
    page.get_by_role("tab", name="openai").click()
    names: dict[str, Any] = {}
    exec(page.get_by_role("tabpanel").locator("pre").inner_text(), names)
    names["client"].close()
    assert capsys.readouterr().out.strip()


def watch(page: Page, name: str, target: str = "fast") -> Any:
    page.get_by_role("navigation").get_by_role("link", name="Watch").click()
    sample(page, name)
    page.get_by_role("combobox", name="Target").select_option(target)
    page.get_by_role("button", name="Start").click()
    return page.get_by_role("group", name=re.compile("positions kept"))


def test_the_canvas_is_shown_step_by_step_with_what_each_step_did(page: Page) -> None:
    canvas = watch(page, "JSON Schema")
    slider = page.get_by_role("slider", name="Step")
    slider.fill("0")
    expect(canvas).to_have_attribute("aria-label", re.compile("^Noise. 0 of 56 positions kept"))
    slider.fill("1")
    expect(canvas).to_have_attribute("aria-label", re.compile("^Step 1.*Mean entropy"))
    assert canvas.locator(".token-forced").count() > 10, "the schema forces its property names"
    slider.press("End")
    expect(canvas).to_have_attribute("aria-label", re.compile('sealed. 56 of 56 .*"red lamp"'))
    expect(page.get_by_role("img", name=re.compile("Entropy per step"))).to_be_visible()
    expect(page.get_by_text("tokens per pass")).to_be_visible()


def test_renoised_positions_and_more_steps(page: Page) -> None:
    canvas = watch(page, "Sudoku")
    slider = page.get_by_role("slider", name="Step")
    slider.fill("1")
    assert canvas.locator(".token-renoised").count() > 0
    watch(page, "Text")
    expect(slider).to_have_attribute("max", "2")
    page.get_by_label("More steps").check()
    page.get_by_role("button", name="Start").click()
    expect(slider).to_have_attribute("max", re.compile("^([3-9]|1[0-9])$"))


def test_verification_pins_tokens(page: Page) -> None:
    canvas = watch(page, "Edit", "careful")
    page.get_by_role("slider", name="Step").press("End")
    expect(canvas).to_have_attribute("aria-label", re.compile("Verification .*remove stale cache from session"))
    assert canvas.locator(".token-pinned").count() > 5
