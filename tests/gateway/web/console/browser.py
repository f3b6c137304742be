"""A headless Chromium of the distribution, and a gateway as a process that tests can restart."""

import contextlib
import json
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import Browser, Page, expect, sync_playwright

from deploy.console import build
from twolane.process.flags import free_port

CHROMIUM: Final = shutil.which("chromium") or shutil.which("chromium-browser")
ROOT: Final = Path(__file__).parents[4]
_ARGUMENTS: Final = ("--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A browser that reaches loopback only."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(_ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class OpenPage:
    """A page, and everything that went wrong in it."""

    page: Page
    problems: list[str] = field(default_factory=list)


@contextlib.contextmanager
def open_page(browser: Browser, **options: Any) -> Iterator[OpenPage]:
    """A page in a context of its own; console messages about blocked content count as problems."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 860}, **options})
    page = context.new_page()
    page.set_default_timeout(120_000)
    expect.set_options(timeout=120_000)  # slow machines
    opened = OpenPage(page)
    page.on("pageerror", lambda error: opened.problems.append(str(error)))
    page.on("console", lambda message: _note(opened, message.type, message.text))
    try:
        yield opened
    finally:
        context.close()


def _note(opened: OpenPage, kind: str, text: str) -> None:
    if kind in ("error", "warning") and "Failed to load resource" not in text and "ERR_CONNECTION" not in text:
        opened.problems.append(text)


def axe_violations(page: Page) -> list[str]:
    """What axe-core finds, as `rule: element`."""
    environment = build.prepare()
    page.evaluate((environment / "node_modules" / "axe-core" / "axe.min.js").read_text())
    found = page.evaluate("async () => (await axe.run(document, {resultTypes: ['violations']})).violations")
    return [f"{each['id']}: {node['html'][:160]}" for each in found for node in each["nodes"]]


@dataclass
class GatewayProcess:
    """`twolane serve` on fixed ports."""

    policy: Path
    environment: dict[str, str]
    port: int = field(default_factory=lambda: free_port("127.0.0.1"))
    admin_port: int = field(default_factory=lambda: free_port("127.0.0.1"))
    process: subprocess.Popen[bytes] | None = None

    @property
    def console(self) -> str:
        return f"http://127.0.0.1:{self.admin_port}/console"

    def start(self) -> None:
        line = [sys.executable, "-m", "twolane", "serve", "--policy", str(self.policy), "--port", str(self.port)]
        line += ["--admin-port", str(self.admin_port), "--drain-s", "1", "--heartbeat-s", "0"]
        self.process = subprocess.Popen(line, cwd=ROOT, env=self.environment, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}/health").close()
                return
            time.sleep(0.05)
        raise AssertionError("the gateway did not start")

    def stop(self) -> None:
        assert self.process is not None
        self.process.terminate()
        self.process.wait(300)

    def send(self, content: str = "hi", key: str = "", **more: Any) -> None:
        """One request on the public port."""
        body = {"model": "auto", "messages": [{"role": "user", "content": content}], **more}
        headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/chat/completions", json.dumps(body).encode(), headers
        )
        urllib.request.urlopen(request).close()


@contextlib.contextmanager
def target_saying(text: str) -> Iterator[str]:
    """The URL of an OpenAI-compatible server that always answers with this text."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    answer = json.dumps({"id": "c", "object": "chat.completion", "created": 1, "model": text, "choices": [choice]})

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(answer.encode())))
            self.end_headers()
            self.wfile.write(answer.encode())

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
