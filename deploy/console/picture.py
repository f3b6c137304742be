"""`python -m deploy.console.picture URL --out DIR` takes the pictures of the documentation from a running console.

`console-watch.gif` shows a canvas step by step, `console-lanes.png` the lanes. Needs Chromium of the distribution and
the extra `dev`. Without an address, it starts the demo.
"""

import argparse
import io
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from PIL import Image
from playwright.sync_api import Page, sync_playwright

SIZE: Final = (1000, 790)
FRAME_MS: Final = 900
LAST_FRAME_MS: Final = 2600
COLORS: Final = 128
_BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome")
_ADDRESS: Final = re.compile(r"Console: (http\S+)")


def main(argv: Sequence[str] | None = None) -> int:
    """Take both pictures."""
    parser = argparse.ArgumentParser(prog="python -m deploy.console.picture", description="Take the pictures.")
    parser.add_argument("url", nargs="?", help="address of the console; without it, the demo is started")
    parser.add_argument("--out", type=Path, default=Path("docs"), metavar="DIR", help="output folder")
    options = parser.parse_args(argv)
    if options.url is not None:
        take(options.url, options.out)
        return 0
    line = [sys.executable, "-u", "-m", "twolane", "demo", "--free-ports"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as demo:  # noqa: S603 - our own command
        try:
            take(_address(demo), options.out)
        finally:
            demo.terminate()
    return 0


def _address(demo: "subprocess.Popen[str]") -> str:
    """The address that the demo prints; returns once its sample requests have been sent."""
    assert demo.stdout is not None
    address = ""
    for text in demo.stdout:
        found = _ADDRESS.search(text)
        address = found[1] if found else address
        if address and text.startswith("Serving until"):
            return address
    raise SystemExit("the demo ended before it served")


def take(url: str, folder: Path) -> None:
    """Write the pictures to a folder."""
    browser_path = next(filter(None, map(shutil.which, _BROWSERS)), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]}, color_scheme="light")
        page.goto(url)
        page.get_by_role("status").filter(has_text="live").wait_for()
        _animate(_canvas_frames(page), folder / "console-watch.gif")
        page.set_viewport_size({"width": 1360, "height": 1000})
        page.get_by_role("link", name="Lanes").click()
        page.locator(".sankey").wait_for()
        page.wait_for_timeout(1500)
        _png(page.screenshot(full_page=True), folder / "console-lanes.png")
        browser.close()


def _canvas_frames(page: Page) -> list[bytes]:
    """Screenshots of the canvas, a step each: a JSON document, then a Sudoku."""
    page.get_by_role("link", name="Watch").click()
    frames: list[bytes] = []
    for sample in ("JSON Schema", "Sudoku"):
        page.get_by_role("button", name=sample, exact=True).click()
        page.get_by_role("button", name="Start").click()
        slider = page.get_by_role("slider", name="Step")
        slider.wait_for()
        steps = int(slider.get_attribute("max") or 0)
        for step in range(steps + 1):
            slider.fill(str(step))
            page.mouse.move(0, 0)
            page.wait_for_timeout(450)  # colours change gradually
            frames.append(page.screenshot())
        page.get_by_role("button", name="Play").wait_for()
    return frames


def _animate(frames: Sequence[bytes], path: Path) -> None:
    images = [Image.open(io.BytesIO(frame)).convert("RGB") for frame in frames]
    every = Image.new("RGB", (images[0].width, sum(image.height for image in images)))
    for number, image in enumerate(images):
        every.paste(image, (0, number * image.height))
    palette = every.quantize(COLORS)
    shown = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    durations = [FRAME_MS] * len(shown)
    durations[-1] = LAST_FRAME_MS
    shown[0].save(path, save_all=True, append_images=shown[1:], duration=durations, loop=0, optimize=True)


def _png(content: bytes, path: Path) -> None:
    Image.open(io.BytesIO(content)).convert("RGB").quantize(128).save(path, optimize=True)


if __name__ == "__main__":
    sys.exit(main())
