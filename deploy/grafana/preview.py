"""`python -m deploy.grafana.preview URL --out DIR` draws every dashboard from a live Prometheus, without Grafana.

An SVG per dashboard, and a PNG where there is a Chromium; exit 1 if a query brought nothing.
"""

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from deploy.grafana.answers import AnswerError, Window, ask
from deploy.grafana.boards import BOARDS
from deploy.grafana.drawing import WIDTH, draw, layout

GOOD: Final = 0
WORK_FAILED: Final = 1
_BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome")
_PICTURE_S: Final = 60.0


def main(argv: Sequence[str] | None = None) -> int:
    """Return 0 if every query of every panel brought numbers, 1 if not or if Prometheus cannot be asked."""
    parser = argparse.ArgumentParser(prog="python -m deploy.grafana.preview", description="Draw the dashboards.")
    parser.add_argument("url", help="of a Prometheus, like http://127.0.0.1:9090")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the pictures go")
    parser.add_argument("--minutes", type=float, default=60.0, help="how far back (%(default)s)")
    parser.add_argument("--rate-seconds", type=float, default=60.0, help="window of rates (%(default)s)")
    read = parser.parse_args(argv)
    end_s = time.time()
    begin_s = end_s - 60 * read.minutes
    step_s = max(1.0, (end_s - begin_s) / 240)
    window = Window(begin_s=begin_s, end_s=end_s, step_s=step_s, rate_s=read.rate_seconds)
    read.out.mkdir(parents=True, exist_ok=True)
    try:
        complaints = preview(read.url.rstrip("/"), read.out, window)
    except AnswerError as cause:
        print(f"preview: {cause}", file=sys.stderr)
        return WORK_FAILED
    for complaint in complaints:
        print(complaint)
    return WORK_FAILED if complaints else GOOD


def preview(url: str, folder: Path, window: Window) -> list[str]:
    """Draw all boards; return what is wrong with their answers. Raises AnswerError."""
    browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
    complaints: list[str] = []
    for board in BOARDS:
        answers = ask(board, url, window)
        complaints += [f"{board.title}: {text}" for answered in answers for text in answered.complaints]
        page = folder / f"{board.uid}.svg"
        page.write_text(draw(board, answers, window), encoding="utf-8")
        if browser is not None:
            photograph(browser, page, height=layout(board)[1])
    return complaints


def photograph(browser: str, page: Path, *, height: int) -> Path:
    """A PNG beside the page. Raises CalledProcessError or TimeoutExpired with what the browser said."""
    picture = page.with_suffix(".png")
    line = (
        *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--force-device-scale-factor=1"),
        "--host-resolver-rules=MAP * ~NOTFOUND",  # whatever a browser likes to ask at its start: not from here
        *(f"--user-data-dir={page.parent / 'browser'}", f"--window-size={WIDTH},{height}"),
        *(f"--screenshot={picture}", page.resolve().as_uri()),
    )
    subprocess.run(line, capture_output=True, timeout=_PICTURE_S, check=True)  # noqa: S603 - a browser of this machine
    shutil.rmtree(page.parent / "browser", ignore_errors=True)
    return picture


if __name__ == "__main__":
    sys.exit(main())
