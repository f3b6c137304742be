"""The console's page in headless Chromium, before a gateway with a hostile target: sign-in, hostile text, axe, ten
thousand decisions, and a restart."""

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from deploy.console import build
from tests.gateway.web.console.browser import (
    CHROMIUM,
    GatewayProcess,
    OpenPage,
    axe_violations,
    chromium,
    open_page,
    target_saying,
)
from twolane.process.api_keys import key_line

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]

HOSTILE = '<img src=x onerror="window.pwned=1"><script>window.pwned=1</script>${window.pwned=1}</textarea>javascript:'
POLICY = """
version: 1
targets:
  only: {kind: openai, engine: openai, url: "%s", model: m, location: in_cluster}
  gone: {kind: openai, engine: openai, url: "http://127.0.0.1:9", model: m, location: in_cluster}
routes:
  - {name: edits, when: {task: edit}, use: gone, fall_back: only, slo: {p95_ms: 500}}
  - {name: default, use: only}
limits:
  - {keys: [app], requests_per_minute: 100, tokens_per_day: 1000}
"""
PAGES = ("playground", "watch", "lanes", "decisions", "policy", "keys")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as launched:
        yield launched


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    folder: Path = tmp_path_factory.mktemp("console")
    keys = folder / "keys"
    lines = [key_line("boss", "sk-boss", ["scopes=admin"]), key_line("app", "sk-app")]
    keys.write_text("\n".join(lines) + "\n")
    with target_saying(HOSTILE) as url:
        (folder / "policy.yaml").write_text(POLICY % url)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TWOLANE_")}
        given = {"TWOLANE_KEYS_FILE": str(keys), "TWOLANE_CONSOLE_SECRET": "of the test"}
        made = GatewayProcess(folder / "policy.yaml", {**kept, **given})
        made.start()
        made.send(key="sk-app")
        made.send(key="sk-app", metadata={"task": "edit"})
        try:
            yield made
        finally:
            made.stop()


@pytest.fixture
def opened(browser: Browser, gateway: GatewayProcess) -> Iterator[OpenPage]:
    with open_page(browser) as made:
        sign_in(made.page, gateway)
        yield made
        assert made.problems == []
        assert made.page.evaluate("window.pwned") is None


def sign_in(page: Page, gateway: GatewayProcess) -> None:
    page.goto(gateway.console)
    page.get_by_label("API key").fill("sk-boss")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("status").filter(has_text="live")).to_be_visible()


def go(page: Page, name: str) -> None:
    page.get_by_role("navigation").get_by_role("link", name=name.capitalize()).click()


def test_a_wrong_key_is_refused_and_signing_out_ends_the_session(browser: Browser, gateway: GatewayProcess) -> None:
    with open_page(browser) as made:
        page = made.page
        page.goto(gateway.console)
        page.get_by_label("API key").fill("sk-app")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_contain_text("lacks the scope")
        sign_in(page, gateway)
        page.reload()
        expect(page.get_by_role("status").filter(has_text="live")).to_be_visible()
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
        assert page.context.cookies() == []


def test_hostile_text_is_shown_and_never_run(opened: OpenPage) -> None:
    page = opened.page
    page.get_by_label("API key of the requests").fill("sk-app")
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.get_by_label("Text of the answer")).to_have_text(HOSTILE)
    page.get_by_text("The whole response").click()
    go(page, "decisions")
    page.get_by_label("ID, task or path").fill(HOSTILE)
    page.goto(f"{page.url.partition('#')[0]}#/decisions/{'%3Cimg%20src%3Dx%20onerror%3Dpwned%3D1%3E'}")
    expect(page.get_by_role("alert")).to_contain_text("<img src=x")
    assert page.locator("img").count() == 0


def test_the_browser_itself_refuses_markup_and_inline_script(opened: OpenPage) -> None:
    """Were the page ever to set hostile text as HTML, or as a handler of events."""
    page = opened.page
    for attempt in (
        "document.body.innerHTML = '<b>x</b>'",
        "document.body.setAttribute('onclick', 'window.pwned=1')",
        "document.createElement('script').text = 'window.pwned=1'",
    ):
        name = page.evaluate(f"(() => {{ try {{ {attempt} }} catch (error) {{ return error.name }} }})()")
        assert (attempt, name) == (attempt, "TypeError")
    opened.problems.clear()  # the browser reports all of them


@pytest.mark.parametrize("place", ["decisions/%", "decisions/%E0%A4%A", "constructor", "__proto__/x"])
def test_any_address_shows_a_page(opened: OpenPage, gateway: GatewayProcess, place: str) -> None:
    page = opened.page
    page.goto(f"{gateway.console}#/{place}")
    page.reload()
    expect(page.locator("main h2").first).to_be_visible()


@pytest.mark.parametrize("body", ["null", "[]", "5", '"text"', "{"])
def test_a_body_that_is_no_object_is_a_mistake_at_its_line(opened: OpenPage, body: str) -> None:
    page = opened.page
    write(page, "Body of the request, as JSON", body)
    expect(page.get_by_role("alert")).to_contain_text("JSON")
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_disabled()
    page.get_by_role("tab", name="openai").click()
    expect(page.get_by_role("tabpanel")).to_contain_text("# The body is not")
    go(page, "watch")
    expect(page.get_by_role("button", name="Start")).to_be_disabled()


def write(page: Page, name: str, text: str) -> None:
    page.get_by_role("textbox", name=name, exact=True).focus()
    page.keyboard.press("Control+A")
    page.keyboard.press("Delete")  # over a selection, the browser itself inserts a style, which is blocked and reported
    page.keyboard.insert_text(text)


@pytest.mark.parametrize("answer", ["null", "<html>", "{}", '{"choices": 5}', '{"choices": [{"message": null}]}'])
def test_a_response_of_any_shape_is_shown(opened: OpenPage, answer: str) -> None:
    page = opened.page
    page.route("**/console/send/**", lambda route: route.fulfill(body=answer, content_type="application/json"))
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.get_by_role("article")).to_contain_text(re.compile("not JSON|ended early|no text"))
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_enabled()


def test_signing_out_forgets_the_key_of_requests_and_the_decisions(opened: OpenPage) -> None:
    page = opened.page
    page.get_by_label("API key of the requests").fill("sk-app")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("status").filter(has_text="signed out")).to_be_visible()
    page.get_by_label("API key").fill("sk-boss")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_label("API key of the requests")).to_have_value("")
    expect(page.get_by_role("status").filter(has_text="live")).to_be_visible()


def test_a_file_that_is_not_the_running_policy_is_called_so(opened: OpenPage, gateway: GatewayProcess) -> None:
    page = opened.page
    text = gateway.policy.read_text()
    try:
        gateway.policy.write_text(text + "nonsense: 1\n")
        go(page, "policy")
        expect(page.get_by_role("status").filter(has_text="no longer the policy")).to_contain_text("nonsense")
        gateway.policy.write_text(text)
        page.reload()
        expect(page.get_by_text("same as running")).to_be_visible()
        gateway.policy.write_text(text.replace("tokens_per_day: 1000", "tokens_per_day: 2000"))
        expect(page.get_by_label("Running policy, read-only")).to_contain_text("tokens_per_day: 2000")
        expect(page.get_by_role("textbox", name="Proposed policy", exact=True)).to_contain_text("tokens_per_day: 2000")
        expect(page.get_by_text("same as running")).to_be_visible()
    finally:
        gateway.policy.write_text(text)


def test_fallbacks_between_many_targets_stay_in_their_picture(opened: OpenPage, gateway: GatewayProcess) -> None:
    page = opened.page
    found = json.loads(page.evaluate("fetch('/console/api/decisions').then(r => r.text())"))
    row = dict(zip(found["columns"], found["rows"][0], strict=True))
    row["attempts"] = ",".join([*(f"t{number}=upstream_error" for number in range(30)), "only=ok"])
    listing = json.dumps({**found, "rows": [[row[name] for name in found["columns"]]]})
    page.route("**/console/api/decisions", lambda route: route.fulfill(body=listing, content_type="application/json"))
    page.goto(f"{gateway.console}#/lanes")
    page.reload()
    expect(page.get_by_text("t28 → t29: upstream error")).to_be_attached()
    expect(page.locator(".sankey rect")).to_have_count(61)
    below = "rects => Math.max(...rects.map(e => e.getBoundingClientRect().bottom))"
    bottom = page.locator(".sankey").evaluate("e => e.getBoundingClientRect().bottom")
    assert page.locator(".sankey rect").evaluate_all(below) <= bottom


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing(browser: Browser, gateway: GatewayProcess, scheme: Any, width: int) -> None:
    if not build.is_prepared():
        pytest.skip("axe-core is not installed: make console-tools")
    size: Any = {"width": width, "height": 860}
    with open_page(browser, color_scheme=scheme, viewport=size, reduced_motion="reduce") as made:
        page = made.page
        page.goto(gateway.console)
        page.get_by_role("heading", name="Sign in").wait_for()
        assert axe_violations(page) == []
        sign_in(page, gateway)
        page.get_by_label("API key of the requests").fill("sk-app")
        page.get_by_role("button", name="Send", exact=True).click()
        page.get_by_role("heading", name="Why").wait_for()
        for name in PAGES:
            go(page, name)
            page.locator("main h2").first.wait_for()
            assert (name, overflow_of(page)) == (name, 0), "the page itself scrolls sideways"
            if name == "decisions":
                page.get_by_role("button", name=re.compile("Open decision")).first.click()
                page.get_by_text("The full record").wait_for()
            assert (name, axe_violations(page)) == (name, [])
            assert (name, overflow_of(page)) == (name, 0)


def overflow_of(page: Page) -> int:
    """Pixels of the document that lie beside the view."""
    found: int = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return found


def test_every_page_is_reached_by_keyboard(opened: OpenPage) -> None:
    page = opened.page
    page.reload()
    expect(page.get_by_role("tab", name="curl")).to_be_visible()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main", "the first stop skips the navigation"
    go(page, "decisions")
    page.get_by_role("button", name=re.compile("Open decision")).first.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("complementary")).to_contain_text("Route")
    page.keyboard.press("Escape")
    expect(page.get_by_role("complementary")).to_have_count(0)
    go(page, "playground")
    page.get_by_role("tab", name="curl").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="openai")).to_have_attribute("aria-selected", "true")
    page.get_by_role("textbox", name="Body of the request, as JSON").focus()
    page.keyboard.press("Tab")
    assert "cm-content" not in page.evaluate("document.activeElement.className"), "the editor is no trap"


def test_decisions_lanes_and_keys_show_what_was_sent(opened: OpenPage) -> None:
    page = opened.page
    go(page, "decisions")
    page.get_by_label("reason").select_option("upstream_error")
    expect(page.locator("tbody tr").first).to_contain_text("upstream error")
    page.get_by_role("button", name=re.compile("Open decision")).first.click()
    record = page.get_by_role("complementary")
    expect(record).to_contain_text("the server failed")
    expect(record).to_contain_text("app")
    go(page, "lanes")
    expect(page.get_by_text("gone → only: upstream error")).to_be_attached()
    expect(page.get_by_role("img", name=re.compile("State of 1 lanes|State of 2 lanes"))).to_be_visible()
    go(page, "keys")
    row = page.get_by_role("row").filter(has_text="app")
    expect(row).to_contain_text("tokens per day")


def test_a_mistake_in_a_proposal_is_marked_at_its_line(opened: OpenPage) -> None:
    page = opened.page
    go(page, "policy")
    editor = page.get_by_role("textbox", name="Proposed policy", exact=True)
    expect(editor).to_contain_text("version: 1")
    expect(page.get_by_text("same as running")).to_be_visible()
    editor.focus()
    page.keyboard.press("Control+End")
    page.keyboard.insert_text("nonsense: 1\n")
    expect(page.get_by_role("alert")).to_contain_text("nonsense")
    expect(page.locator(".cm-lintRange-error, .cm-lintPoint-error")).to_have_count(1)
    page.get_by_role("button", name="Reset").click()
    page.get_by_role("button", name="Simulate the recent decisions").click()
    expect(page.get_by_role("heading", name=re.compile("replayed in virtual time"))).to_be_visible()
    page.get_by_role("button", name="Explain the playground's request by both").click()
    expect(page.get_by_text("Proposed").last).to_be_visible()


def test_ten_thousand_decisions_scroll_without_a_stutter(opened: OpenPage, gateway: GatewayProcess) -> None:
    page = opened.page
    found = json.loads(page.evaluate("fetch('/console/api/decisions').then(r => r.text())"))
    now_ms = time.time() * 1000
    fields = {"key": "app", "task": "chat", "route": "default", "target": "only", "outcome": "ok", "fallback": None}
    rows = [
        [
            {**fields, "time_ms": now_ms - 50 * n, "id": f"req_{n}", "total_ms": n % 400, "cost": 0, "tokens": 5}.get(
                name, "only=ok" if name == "attempts" else "/v1/chat/completions" if name == "path" else False
            )
            for name in found["columns"]
        ]
        for n in range(10_000)
    ]
    listed = {**found, "rows": rows, "count": found["count"], "capacity": 10_000}
    listing = json.dumps(listed)
    page.route("**/console/api/decisions", lambda route: route.fulfill(body=listing, content_type="application/json"))
    page.goto(f"{gateway.console}#/decisions")
    page.reload()
    expect(page.get_by_text("10,000 of this gateway process")).to_be_visible()
    most_rows = page.evaluate(
        """async () => {
          const list = document.querySelector('.virtual');
          let most = 0;
          for (let frame = 0; frame < 60; frame++) {
            list.scrollTop += frame < 30 ? 120 : 10000;
            await new Promise(requestAnimationFrame);
            await new Promise(requestAnimationFrame);
            most = Math.max(most, document.querySelectorAll('tbody tr').length);
          }
          return most;
        }"""
    )
    assert most_rows < 80, "only what is in view is in the document, so that a frame costs the same at any length"
    expect(
        page.locator('tr[aria-rowindex="7995"]')
    ).to_be_visible()  # where the list is scrolled to, at 38 pixels a row
    page.get_by_label("slower than, ms").fill("399")
    expect(page.get_by_text("25 of 10,000")).to_be_visible()


def test_the_page_goes_on_after_a_restart_of_the_gateway(opened: OpenPage, gateway: GatewayProcess) -> None:
    page = opened.page
    go(page, "decisions")
    rows = page.locator("tbody tr:not(.spacer)")
    expect(rows.nth(1)).to_be_visible()
    gateway.stop()
    expect(page.get_by_role("status").filter(has_text="reconnecting")).to_be_visible()
    gateway.start()
    expect(page.get_by_role("status").filter(has_text="live")).to_be_visible()
    gateway.send(key="sk-app")
    expect(rows).to_have_count(1)
