"""`python -m deploy.grafana.preview URL --out DIR` draws every dashboard from a live Prometheus, without Grafana.

Writes an SVG per dashboard, and a PNG if Chromium is installed; exits 1 if a query returns no data.
"""

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from deploy.grafana.answers import AnswerError, Window, query_board
from deploy.grafana.boards import BOARDS
from deploy.grafana.drawing import WIDTH, draw, layout

GOOD: Final = 0
WORK_FAILED: Final = 1
_BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome")
_PICTURE_S: Final = 600.0  # ends a browser that hangs; a busy machine takes a minute


class PictureError(Exception):
    """The browser failed to take a screenshot; the message contains its output."""


def main(argv: Sequence[str] | None = None) -> int:
    """Return 0 if every query of every panel returns numbers, otherwise (or if Prometheus is unreachable) 1."""
    parser = argparse.ArgumentParser(prog="python -m deploy.grafana.preview", description="Draw the dashboards.")
    parser.add_argument("url", help="URL of Prometheus, such as http://127.0.0.1:9090")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="output folder")
    parser.add_argument("--minutes", type=_positive, default=60.0, help="time range in minutes (default: %(default)s)")
    parser.add_argument(
        "--rate-seconds", type=_positive, default=60.0, help="rate window in seconds (default: %(default)s)"
    )
    read = parser.parse_args(argv)
    end_s = time.time()
    begin_s = end_s - 60 * read.minutes
    step_s = max(1.0, (end_s - begin_s) / 240)
    window = Window(begin_s=begin_s, end_s=end_s, step_s=step_s, rate_s=read.rate_seconds)
    read.out.mkdir(parents=True, exist_ok=True)
    try:
        complaints = preview(read.url.rstrip("/"), read.out, window)
    except (AnswerError, PictureError) as cause:
        print(f"preview: {cause}", file=sys.stderr)
        return WORK_FAILED
    for complaint in complaints:
        print(complaint)
    return WORK_FAILED if complaints else GOOD


def preview(url: str, folder: Path, window: Window) -> list[str]:
    """Draw all dashboards; return the problems found in their data. Raises AnswerError, PictureError."""
    browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
    complaints: list[str] = []
    for board in BOARDS:
        answers = query_board(board, url, window)
        complaints += [f"{board.title}: {text}" for answered in answers for text in answered.complaints]
        page = folder / f"{board.uid}.svg"
        page.write_text(draw(board, answers, window), encoding="utf-8")
        if browser is not None:
            photograph(browser, page, height=layout(board)[1])
    return complaints


def photograph(browser: str, page: Path, *, height: int) -> Path:
    """Write a PNG next to the SVG. Raises PictureError with the browser's output."""
    picture = page.with_suffix(".png")
    with tempfile.TemporaryDirectory(prefix="twolane-browser-", ignore_cleanup_errors=True) as profile:
        _run(_line(browser, page, picture, profile=profile, height=height))
    return picture


def _line(browser: str, page: Path, picture: Path, *, profile: str, height: int) -> tuple[str, ...]:
    return (
        *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--force-device-scale-factor=1"),
        "--host-resolver-rules=MAP * ~NOTFOUND",  # no network requests by the browser
        *(f"--user-data-dir={profile}", f"--window-size={WIDTH},{height}"),
        *(f"--screenshot={picture}", page.resolve().as_uri()),
    )


def _run(line: Sequence[str]) -> None:
    """Run in its own process group, so that no browser process outlives the timeout."""
    with subprocess.Popen(  # noqa: S603 - a browser of this machine
        line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            _, said = process.communicate(timeout=_PICTURE_S)
        except subprocess.TimeoutExpired:
            raise PictureError(f"{line[0]} took longer than {_PICTURE_S:.0f} s") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode != 0:
        raise PictureError(f"{line[0]}: {said.decode(errors='replace')[-500:]}")


def _positive(text: str) -> float:
    if not 0 < (value := float(text)) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: not a positive number")
    return value


if __name__ == "__main__":
    sys.exit(main())
