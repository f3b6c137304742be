"""What a request costs inside the gateway: `python -m benchmarks.request_path [--against FOLDER] [--profile]`.

A gateway with everything on (keys, policy, classifier, guard with a fallback, metrics, decision log) runs in a process
of its own, between connections in memory: CPU time per request and per chunk, and calls of Python functions, without
sockets and kernel. Absolute figures depend on the machine's load. `--against` measures another checkout of the project
in turn with this one, burst by burst, and prints the median of the ratios, which hardly does. `--traced` adds each
version with traces of this share of the requests, which a collector that ignores them receives.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.gateway.servers import PARTS

HERE: Final = Path(__file__).parents[2]
CHILD: Final = Path(__file__).with_name("child.py")
ENDS: Final = "ends"
KINDS: Final = ("whole", "stream")
_STREAM_SHARE: Final = 20  # a stream costs as much as about twenty requests
_CHUNKS: Final = 64


@dataclass(frozen=True, slots=True)
class Version:
    """One gateway that runs, and takes commands."""

    name: str
    process: subprocess.Popen[str]

    def command(self, action: str, kind: str, count: int) -> Any:
        """The result of one burst."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{action} {kind} {count}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name}: the gateway ended")
        return json.loads(line)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.request_path", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="another checkout, measured in turn")
    parser.add_argument("--rounds", type=int, default=15, help="bursts of each (default: 15)")
    parser.add_argument("--requests", type=int, default=320, help="requests of a burst (default: 320)")
    parser.add_argument("--without", action="append", default=[], choices=PARTS, help="measure without this part")
    parser.add_argument("--traced", type=float, metavar="SHARE", help="measure with traces of these requests, too")
    parser.add_argument("--profile", action="store_true", help="where calls and time go, by module")
    parser.add_argument("--functions", type=int, default=0, metavar="N", help="with --profile: also the N dearest")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    options = parser.parse_args()
    folders = {"this": HERE} | ({"against": options.against.resolve()} if options.against else {})
    with contextlib.ExitStack() as stack:
        versions = [stack.enter_context(running(name, folder, options.without)) for name, folder in folders.items()]
        if options.traced is not None:
            traces = stack.enter_context(collecting(options.traced))
            for name, folder in folders.items():
                versions.append(stack.enter_context(running(f"{name} traced", folder, options.without, traces)))
        versions.append(stack.enter_context(running(ENDS, HERE, [*options.without, ENDS])))
        figures = _measure(versions, options.rounds, options.requests)
        _show(figures, {each.name: _total_calls(each) for each in versions})
        if options.profile:
            _profile(versions[0], options.functions)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


@contextlib.contextmanager
def running(
    name: str, root: Path, without: list[str], environment: Mapping[str, str] | None = None
) -> Iterator[Version]:
    """A gateway of the checkout at `root`, until the block ends; `without` some parts, with more in its environment."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPATH": str(root), **(environment or {})}
        command = [sys.executable, "-P", str(CHILD), folder, *without]
        with subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                yield Version(name, process)
            finally:
                process.kill()


class _Collector(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@contextlib.contextmanager
def collecting(share: float) -> Iterator[dict[str, str]]:
    """The variables that make a gateway send traces of this share of its requests to a collector in this process."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "OTEL_BSP_SCHEDULE_DELAY": "500",  # most bursts pay for their own spans
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": str(share),
        }
        server.shutdown()


Figures = dict[str, dict[str, list[float]]]  # by kind and version


def _measure(versions: list[Version], rounds: int, requests: int) -> Figures:
    figures: Figures = {kind: {each.name: [] for each in versions} for kind in KINDS}
    counts = {"whole": requests, "stream": max(1, requests // _STREAM_SHARE)}
    for number in range(-2, rounds):  # the first rounds warm up
        for kind in KINDS:
            for each in versions[:: 1 if number % 2 else -1]:
                found = each.command("cost", kind, counts[kind])
                if number >= 0:
                    figures[kind][each.name].append(found)
    return figures


def _total_calls(version: Version) -> dict[str, float]:
    return {kind: sum(version.command("calls", kind, 160 if kind == "whole" else 16).values()) for kind in KINDS}


def _show(figures: Figures, calls: Mapping[str, Mapping[str, float]]) -> None:
    table = Table(title="Inside the gateway, 16 requests at a time: microseconds of CPU time, least and median burst")
    headings = ("", "us a request", "ratio", "calls", "us a chunk", "ratio", "calls a stream")
    for heading in headings:
        table.add_column(heading, justify="right" if heading else "left")
    for name in figures["whole"]:
        cells = []
        for kind in KINDS:
            own, first = figures[kind][name], figures[kind]["this"]
            ratio = median(a / b for a, b in zip(own, first, strict=True))
            cells += [f"{min(own):.1f} / {median(own):.1f}", f"{ratio:.3f}", f"{calls[name][kind]:.0f}"]
        table.add_row(name, *cells)
    Console(width=120).print(table)


def _profile(version: Version, functions: int) -> None:
    """Where calls and samples of whole answers go."""
    calls = version.command("calls", "whole", 320)
    shares = version.command("samples", "whole", 16_000)
    total = sum(calls.values())
    _show_shares("By module", _by_module(calls), _by_module(shares), total)
    if functions:
        _show_shares("By function", calls, shares, total, most=functions)


def _by_module(found: Mapping[str, float]) -> Counter[str]:
    modules: Counter[str] = Counter()
    for name, value in found.items():
        modules[name.rpartition(":")[0]] += value  # type: ignore[assignment]
    return modules


def _show_shares(
    title: str, calls: Mapping[str, float], shares: Mapping[str, float], total: float, most: int = 45
) -> None:
    table = Table(title=f"{title}: calls of Python functions (of {total:.0f}) and share of the CPU time of a request")
    for heading in ("", "calls", "time %"):
        table.add_column(heading, justify="right" if heading else "left")
    names = sorted({*calls, *shares}, key=lambda name: -shares.get(name, 0.0))
    for name in names[:most]:
        table.add_row(name, f"{calls.get(name, 0.0):.1f}", f"{100 * shares.get(name, 0.0):.1f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    sys.exit(main())
