"""`twolane admin COMMAND`: ask a running gateway or worker over its admin port.

In a container, without options, it asks the process beside it. Exit codes: 0, answered; 1, no answer or a refusal, with
one line on stderr; 2, wrong use.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from twolane.admin.client import (
    DEFAULT_PORTS,
    KEY,
    KEY_FILE,
    TIMEOUT_S,
    URL,
    AdminError,
    AdminPort,
    default_url,
    key_of,
)
from twolane.admin.tables import Page, lanes
from twolane.process.flags import OneLineParser

FAILED: Final = 1
GATEWAY, WORKER = DEFAULT_PORTS
_LOAD_S: Final = 3600.0  # weights of tens of gigabytes, from a cold disk


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = parse(sys.argv[1:] if argv is None else argv)
    try:
        key = key_of(options.key_file, os.environ)
        url = options.url or default_url(os.environ, options.port)
        port = AdminPort(url=url.rstrip("/"), key=key, timeout_s=options.timeout)
        print(options.run(port, options))
    except AdminError as error:
        print(f"twolane admin: {error}", file=sys.stderr)
        return FAILED
    return 0


def _lanes(port: AdminPort, _options: argparse.Namespace) -> str:
    try:
        page = Page(port.get("/metrics").decode())
    except ValueError as fault:
        raise AdminError(f"{port.url}/metrics: {fault}") from None
    return "\n".join(lanes(page, time.time()))


def _decision(port: AdminPort, options: argparse.Namespace) -> str:
    return _indented(port.get(f"/admin/decisions/{quote(options.id, safe='')}"))


def _explain(port: AdminPort, options: argparse.Namespace) -> str:
    body = sys.stdin.buffer.read() if str(options.file) == "-" else _content(options.file)
    return _indented(port.post(f"/admin/explain?path={quote(options.path)}", body))


def _metrics(port: AdminPort, options: argparse.Namespace) -> str:
    lines = port.get("/metrics").decode(errors="replace").splitlines()
    return "\n".join(line for line in lines if options.text in line)


def _health(port: AdminPort, _options: argparse.Namespace) -> str:
    return _indented(port.get("/health"))


def _state(port: AdminPort, _options: argparse.Namespace) -> str:
    return _indented(port.get("/admin/state"))


def _load(port: AdminPort, _options: argparse.Namespace) -> str:
    return _indented(port.post("/admin/load", b"{}"))


def _unload(port: AdminPort, options: argparse.Namespace) -> str:
    body = {} if options.drain_s is None else {"timeout_s": options.drain_s}
    return _indented(port.post("/admin/unload", json.dumps(body).encode()))


def _limit(port: AdminPort, options: argparse.Namespace) -> str:
    return _indented(port.post("/admin/limits", json.dumps({"max_num_seqs": options.max_num_seqs}).encode()))


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The options; `run` is the command. Wrong use raises SystemExit."""
    parser = OneLineParser(
        prog="twolane admin",
        description="Ask a running gateway or worker over its admin port, by default the local one.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=OneLineParser)
    add = _adder(commands)
    add("lanes", "state of lanes, targets, policy and Redis", _lanes)
    decision = add("decision", "the decision of a recent request", _decision)
    decision.add_argument("id", metavar="ID", help="its x-request-id")
    explain = add("explain", "how a request would be routed, without sending it", _explain)
    explain.add_argument("file", type=Path, metavar="FILE", help="JSON body of the request; - reads standard input")
    explain.add_argument(
        "--path", default="/v1/chat/completions", help="API that the request is for (default: %(default)s)"
    )
    metrics = add("metrics", "metrics of the gateway", _metrics)
    metrics.add_argument("text", nargs="?", default="", metavar="TEXT", help="only lines that contain it")
    add("health", "health of the gateway", _health)
    add("state", "state of the worker and its memory", _state, port=WORKER)
    add("load", "load the worker's weights; returns when they are loaded", _load, port=WORKER, timeout_s=_LOAD_S)
    unload = add(
        "unload", "unload the worker's weights after running requests", _unload, port=WORKER, timeout_s=_LOAD_S
    )
    unload.add_argument(
        "--drain-s", type=_positive, metavar="S", help="time for running requests (default: the worker's)"
    )
    limit = add("limit", "limit the worker's batch size until it restarts", _limit, port=WORKER)
    limit.add_argument("max_num_seqs", type=int, metavar="N", help="sequences that may run together")
    return parser.parse_args(argv)


def _adder(commands: Any) -> Callable[..., argparse.ArgumentParser]:
    def add(
        name: str,
        text: str,
        run: Callable[[AdminPort, argparse.Namespace], str],
        *,
        port: str = GATEWAY,
        timeout_s: float = TIMEOUT_S,
    ) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = commands.add_parser(name, help=text, description=f"Print: {text}.")
        made.set_defaults(run=run, port=port)
        default = f"port {port} of this machine, {DEFAULT_PORTS[port]} if unset"
        made.add_argument("--url", type=_url, help=f"address of the admin port (default: {URL}, else {default})")
        made.add_argument(
            "--key-file", type=Path, metavar="FILE", help=f"file with an API key (default: {KEY_FILE}, else {KEY})"
        )
        made.add_argument(
            "--timeout",
            type=_positive,
            default=timeout_s,
            metavar="S",
            help="timeout in seconds (default: %(default)s)",
        )
        return made

    return add


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as fault:
        raise AdminError(f"{file}: {fault.strerror}") from None


def _indented(body: bytes) -> str:
    try:
        return json.dumps(json.loads(body), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        raise AdminError("the answer is not JSON: is this an admin port?") from None


def _url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"{text!r} is not a URL with http:// or https://")
    return text


def _positive(text: str) -> float:
    if not 0 < (value := float(text)) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


_positive.__name__ = "number"  # what argparse calls it in "invalid number value"
