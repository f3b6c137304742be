"""`twolane bench URL --prompts FILE`: an open-loop load on any OpenAI-compatible endpoint, with client-side latency.

Exit codes: 0 measured (also after ctrl-C, with the statistics so far), 1 no request succeeded or a limit was exceeded,
2 wrong use.
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
from twolane.bench.load import LoadOptions, Sample, run
from twolane.bench.plan import Call, constant, poisson, read_prompts, replay, schedule
from twolane.bench.report import check_drawable, draw, table
from twolane.process.errors import WRONG_USE
from twolane.process.flags import OneLineParser, WrongUseError, whole_number

GOOD: Final = 0
WORK_FAILED: Final = 1
ARRIVALS: Final = ("poisson", "constant", "log")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The command line."""

    load: LoadOptions
    calls: tuple[Call, ...]
    json: Path | None
    report: Path | None
    p95_ms: float | None
    success: float | None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    console = Console(highlight=False)
    try:
        options = parse(sys.argv[1:] if argv is None else argv)
        samples = asyncio.run(measure(options.calls, options.load, console))
        found = figures(samples)
        console.print(table(found))
        write(found, samples, options)
    except WrongUseError as cause:
        print(f"twolane bench: {cause}", file=sys.stderr)
        return WRONG_USE
    exceeded = exceeded_limits(found, options)
    for line in exceeded:
        console.print(line, style="bold red")
    return WORK_FAILED if exceeded or not found.answered else GOOD


async def measure(calls: Sequence[Call], load: LoadOptions, console: Console) -> list[Sample]:
    """Send the calls and show progress; ctrl-C and SIGTERM stop early and keep the samples so far."""
    samples: list[Sample] = []
    with _bars(console) as bars:
        sent = bars.add_task("completed", total=len(calls))

        def on_result(sample: Sample) -> None:
            samples.append(sample)
            bars.advance(sent)

        task = asyncio.create_task(run(calls, load, on_result=on_result))
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        try:
            await task
        except asyncio.CancelledError:
            console.print(f"Interrupted: {len(samples)} of {len(calls)} requests had completed.", style="yellow")
    return samples


def write(found: Figures, samples: Sequence[Sample], options: Options) -> None:
    """Write the requested files. Raises WrongUseError naming a file that cannot be written."""
    try:
        if options.json is not None:
            options.json.write_text(json.dumps(asdict(found), indent=2) + "\n", encoding="utf-8")
        if options.report is not None:
            draw(samples, found, options.report)
    except OSError as fault:
        raise WrongUseError(f"cannot write {fault.filename}: {fault.strerror}") from None


def exceeded_limits(found: Figures, options: Options) -> list[str]:
    """Describe each exceeded limit."""
    lines = []
    p95_ms = found.latency.percentiles_ms.get(95.0)
    if options.p95_ms is not None and (p95_ms is None or p95_ms > options.p95_ms):
        lines.append(f"p95 is {p95_ms:.0f} ms, above {options.p95_ms:g} ms" if p95_ms else "no request succeeded")
    if options.success is not None and found.success < options.success:
        lines.append(f"{found.success:.2%} of requests succeeded, below {options.success:.2%}")
    return lines


def parse(argv: Sequence[str]) -> Options:
    """Parse the command line. Raises WrongUseError, or exits with code 2 and one line."""
    read = _parser().parse_args(argv)
    if read.report is not None:
        check_drawable(read.report)
    return Options(
        load=LoadOptions(
            url=read.url,
            model=read.model,
            stream=read.stream,
            timeout_s=read.timeout,
            max_in_flight=read.max_in_flight,
            key=os.environ.get("OPENAI_API_KEY"),
        ),
        calls=_calls(read),
        json=read.json,
        report=read.report,
        p95_ms=read.p95_ms,
        success=read.success,
    )


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="twolane bench",
        description="Send an open-loop load to an OpenAI-compatible endpoint and report client-side latency.",
        epilog="FILE holds one JSON object per line: a chat completion body, {prompt, expect, schema}, or a line of a "
        "decision log, which is replaced by generated text of the same size. The API key is read from OPENAI_API_KEY.",
    )
    parser.add_argument("url", metavar="URL", type=root_url, help="URL of the endpoint, with or without /v1")
    parser.add_argument("--prompts", type=Path, required=True, metavar="FILE", help="requests to send, as JSON Lines")
    parser.add_argument(
        "--rate", type=positive, default=2.0, metavar="N", help="requests per second (default: %(default)s)"
    )
    parser.add_argument(
        "--seconds", type=positive, default=30.0, metavar="N", help="duration of the load (default: %(default)s)"
    )
    parser.add_argument(
        "--arrivals",
        choices=ARRIVALS,
        default="poisson",
        help="arrival times; log: those of the log (default: %(default)s)",
    )
    parser.add_argument(
        "--faster",
        type=positive,
        default=1.0,
        metavar="X",
        help="speed-up factor for --arrivals log (default: %(default)s)",
    )
    parser.add_argument("--model", default="auto", help="model to request (default: %(default)s)")
    parser.add_argument("--stream", action="store_true", help="request streams, and report the time to first token")
    parser.add_argument(
        "--timeout",
        type=positive,
        default=60.0,
        metavar="S",
        help="seconds until a request times out (default: %(default)s)",
    )
    parser.add_argument(
        "--max-in-flight",
        type=whole_number(1),
        metavar="N",
        help="cap concurrent requests; delayed ones are counted",
    )
    parser.add_argument(
        "--seed", type=whole_number(0), default=1, metavar="N", help="random seed (default: %(default)s)"
    )
    _add_results(parser)
    return parser


def _add_results(parser: OneLineParser) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the statistics to this file")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write plots to this file (.png, .svg or .pdf)")
    parser.add_argument("--p95-ms", type=positive, metavar="N", help="exit with 1 if the p95 latency is above N ms")
    parser.add_argument(
        "--success", type=share, metavar="X", help="exit with 1 if the share of successful requests is below X (0 to 1)"
    )


def _calls(read: argparse.Namespace) -> tuple[Call, ...]:
    prompts = read_prompts(read.prompts)
    if read.arrivals == "log":
        return replay(prompts, faster=read.faster)
    arrivals = constant if read.arrivals == "constant" else lambda rate, seconds: poisson(rate, seconds, read.seed)
    if not (due := arrivals(read.rate, read.seconds)):
        raise WrongUseError(f"{read.rate:g} requests per second for {read.seconds:g} seconds: no request to send")
    return schedule(due, prompts, read.seed)


def root_url(text: str) -> str:
    """Parse an http(s) URL and remove /v1 and trailing slashes."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise argparse.ArgumentTypeError(f"{text!r} is not an http(s) URL")
    return text.rstrip("/").removesuffix("/v1").rstrip("/")


def positive(text: str) -> float:
    """Parse a number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} must be a number above 0")
    return value


def share(text: str) -> float:
    """Parse a number above 0 and at most 1."""
    if (value := positive(text)) > 1.0:
        raise argparse.ArgumentTypeError(f"{text} must be at most 1")
    return value


def _bars(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
