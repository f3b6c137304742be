"""`twolane bench URL --prompts FILE`: an open-loop load on any OpenAI-style endpoint, and what its clients felt.

Exit codes: 0 measured (also after ctrl-C, with the figures so far), 1 nothing was answered or a bar was missed, 2 wrong
use.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from twolane.bench.figures import Figures, figures
from twolane.bench.load import Manner, Sample, run
from twolane.bench.plan import Call, as_logged, constant, in_turn, poisson, read_prompts
from twolane.bench.report import check_drawable, draw, table
from twolane.process.flags import WRONG_USE, OneLineParser, WrongUseError, whole_number

GOOD: Final = 0
WORK_FAILED: Final = 1
SIZES: Final = ("poisson", "constant", "log")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What was asked for on the command line."""

    manner: Manner
    calls: tuple[Call, ...]
    json: Path | None
    report: Path | None
    p95_ms: float | None
    success: float | None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    page = Console(highlight=False)
    try:
        wish = parse(sys.argv[1:] if argv is None else argv)
        samples = asyncio.run(measure(wish.calls, wish.manner, page))
        found = figures(samples)
        page.print(table(found))
        write(found, samples, wish)
    except WrongUseError as cause:
        print(f"twolane bench: {cause}", file=sys.stderr)
        return WRONG_USE
    missed = misses(found, wish)
    for line in missed:
        page.print(line, style="bold red")
    return WORK_FAILED if missed or not found.answered else GOOD


async def measure(calls: Sequence[Call], manner: Manner, page: Console) -> list[Sample]:
    """Send the calls, with bars while somebody watches; ctrl-C and SIGTERM end it early, with the samples so far."""
    samples: list[Sample] = []
    with _bars(page) as bars:
        sent = bars.add_task("answered", total=len(calls))

        def heard(sample: Sample) -> None:
            samples.append(sample)
            bars.advance(sent)

        load = asyncio.create_task(run(calls, manner, heard=heard))
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, load.cancel)
        try:
            await load
        except asyncio.CancelledError:
            page.print(f"Interrupted: {len(samples)} of {len(calls)} requests had ended.", style="yellow")
    return samples


def write(found: Figures, samples: Sequence[Sample], wish: Wish) -> None:
    """Write the files that were asked for. Raises WrongUseError naming the one that cannot be written."""
    try:
        if wish.json is not None:
            wish.json.write_text(json.dumps(asdict(found), indent=2) + "\n", encoding="utf-8")
        if wish.report is not None:
            draw(samples, found, wish.report)
    except OSError as fault:
        raise WrongUseError(f"cannot write {fault.filename}: {fault.strerror}") from None


def misses(found: Figures, wish: Wish) -> list[str]:
    """The bars that were set and not cleared, in words."""
    lines = []
    p95_ms = found.latency.percentiles_ms.get(95.0)
    if wish.p95_ms is not None and (p95_ms is None or p95_ms > wish.p95_ms):
        lines.append(f"p95 is {p95_ms:.0f} ms, over {wish.p95_ms:g}" if p95_ms else "nothing was answered")
    if wish.success is not None and found.success < wish.success:
        lines.append(f"{found.success:.2%} were answered, under {wish.success:.2%}")
    return lines


def parse(argv: Sequence[str]) -> Wish:
    """Read the command line. Raises WrongUseError, or exits 2 with one line."""
    parser = OneLineParser(
        prog="twolane bench",
        description="Load an OpenAI-style endpoint on a schedule of its own and tell what its clients felt.",
        epilog="FILE has a line per request: a chat body, {prompt, expect, schema}, or a line of a decision log (its "
        "sizes and times are kept, its text was never written down and is made up). A key is read from OPENAI_API_KEY.",
    )
    parser.add_argument("url", metavar="URL", type=root_url, help="of the endpoint, with or without /v1")
    parser.add_argument("--prompts", type=Path, required=True, metavar="FILE")
    parser.add_argument("--rate", type=positive, default=2.0, metavar="N", help="requests a second (%(default)s)")
    parser.add_argument("--seconds", type=positive, default=30.0, metavar="N", help="how long (%(default)s)")
    parser.add_argument("--arrivals", choices=SIZES, default="poisson", help="when they come; log: as recorded")
    parser.add_argument("--faster", type=positive, default=1.0, metavar="X", help="with log: so many times as fast")
    parser.add_argument("--model", default="auto", help="(%(default)s)")
    parser.add_argument("--stream", action="store_true", help="ask for streams, and tell of first tokens")
    parser.add_argument("--timeout", type=positive, default=60.0, metavar="S", help="give up after (%(default)s)")
    parser.add_argument("--most-in-flight", type=whole_number(1), metavar="N", help="hold the rest back, and count it")
    parser.add_argument("--seed", type=whole_number(0), default=1, metavar="N", help="of arrivals and order")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--report", type=Path, metavar="FILE.png", help="draw them there")
    parser.add_argument("--p95-ms", type=positive, metavar="N", help="exit 1 if p95 is above")
    parser.add_argument("--success", type=share, metavar="X", help="exit 1 if a smaller share was answered")
    read = parser.parse_args(argv)
    if read.report is not None:
        check_drawable(read.report)
    return Wish(
        manner=Manner(
            url=read.url,
            model=read.model,
            stream=read.stream,
            timeout_s=read.timeout,
            most_in_flight=read.most_in_flight,
            key=os.environ.get("OPENAI_API_KEY"),
        ),
        calls=_calls(read),
        json=read.json,
        report=read.report,
        p95_ms=read.p95_ms,
        success=read.success,
    )


def _calls(read: argparse.Namespace) -> tuple[Call, ...]:
    prompts = read_prompts(read.prompts)
    if read.arrivals == "log":
        return as_logged(prompts, faster=read.faster)
    moments = constant if read.arrivals == "constant" else lambda rate, seconds: poisson(rate, seconds, read.seed)
    if not (due := moments(read.rate, read.seconds)):
        raise WrongUseError(f"{read.rate:g} a second for {read.seconds:g} seconds is not one request")
    return in_turn(due, prompts, read.seed)


def root_url(text: str) -> str:
    """An http(s) address without /v1 and trailing slashes."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise argparse.ArgumentTypeError(f"{text!r} is not an http address")
    return text.rstrip("/").removesuffix("/v1").rstrip("/")


def positive(text: str) -> float:
    """A number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def share(text: str) -> float:
    """A number above 0, at most 1."""
    if (value := positive(text)) > 1.0:
        raise argparse.ArgumentTypeError(f"{text} is above 1")
    return value


def _bars(page: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=page, transient=True, disable=not page.is_terminal)
