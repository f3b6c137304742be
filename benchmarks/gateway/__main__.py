"""What the gateway costs, beside a bare relay and other gateways: `python -m benchmarks.gateway [--check]`.

Every server runs on one processor, the load and a mock upstream on another, all on loopback. CPU time per request (of
the server's whole process tree) is the most robust figure on a small machine; all bars are ratios of one run. Peers are
measured if they are installed: `--peers`. `--overload`: see `overload`.

The gateway runs with everything on: keys, three routes, the trained classifier, SLO guard with a fallback, metrics and
decision log; and a second time with traces of 1 % of the requests. Metrics cannot be disabled.
"""

import argparse
import json
import os
import platform
import sys
import sysconfig
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from benchmarks.gateway import measure, mock_upstream, overload, peers, processes, report
from benchmarks.gateway.servers import GATEWAY, PARTS, RELAY, TRACED, Server, servers

OVERLOAD_DELAY_S: Final = 0.001
# Spans are exported within each load that they are from. By default every 5 s: some loads would pay for others.
EXPORT_DELAY_MS: Final = 500
WHOLE_SOAK: Final = 100_000


def main() -> int:
    """Command line; returns 1 if `--check` finds a bar that is not met, or if a peer cannot be installed."""
    options = _parser().parse_args()
    if options.upstream:
        mock_upstream.serve(options.upstream, delay_s=options.delay_s)
        return 0
    if options.peers is not None:
        return int(peers.install(options.peers) > 0)
    processes.require_processors()
    processes.pin(os.getpid(), 1)
    return _overload(options) if options.overload else _compare(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bar is not met")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default: 5)")
    parser.add_argument("--seconds", type=float, default=3.0, help="duration of each load (default: 3)")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="measure these servers alone, such as twolane nginx"
    )
    parser.add_argument(
        "--without",
        nargs="+",
        default=[],
        choices=PARTS,
        metavar="PART",
        help=f"turn off parts: {', '.join(PARTS)}",
    )
    parser.add_argument(
        "--http-client", choices=("pooled", "aiohttp"), default="pooled", help="the gateway's client of targets"
    )
    parser.add_argument("--no-tracing", action="store_true", help="do not measure the gateway with tracing")
    parser.add_argument(
        "--soak",
        type=int,
        metavar="N",
        help="measure memory over N requests and N/10 aborted streams (default: 100000 with --check, else 0)",
    )
    parser.add_argument(
        "--peers", nargs="*", choices=peers.NAMES, metavar="NAME", help="install peers below build/peers, and exit"
    )
    parser.add_argument("--overload", action="store_true", help="measure answers and refusals under overload instead")
    parser.add_argument("--upstream", type=int, metavar="PORT", help=argparse.SUPPRESS)
    parser.add_argument("--delay-s", type=float, default=0.0, help=argparse.SUPPRESS)
    return parser


def _compare(options: argparse.Namespace) -> int:
    flags = ("--http-client", options.http_client)
    chosen = servers(without=frozenset(options.without), only=frozenset(options.only), flags=flags)
    if options.no_tracing:
        chosen = [server for server in chosen if server.name != TRACED]
    samples, grown = [], None
    with ExitStack() as stack:
        mock_port = _start_mock(stack)
        for number in range(options.rounds):
            _announce(f"round {number + 1} of {options.rounds}")
            with ExitStack() as started:  # anew: two processes of the same code differ by up to 4 %
                running = _start(started, chosen, mock_port)
                samples += measure.measure(mock_port, running, number=number, seconds=options.seconds)
        requests = options.soak if options.soak is not None else WHOLE_SOAK * options.check
        gateways = [server for server in chosen if server.name == GATEWAY]
        if requests and gateways:
            _announce(f"soak: {requests} requests")
            grown = measure.soak(*_start(stack, gateways, mock_port), requests=requests, aborted=requests // 10)
    found = report.bars(samples, grown)
    report.show(samples, found)
    if options.json:
        facts = _facts(options, chosen)
        options.json.write_text(json.dumps(report.as_json(samples, found, grown, facts), indent=1) + "\n")
    return int(options.check and not all(bar.is_met for bar in found))


def _start(stack: ExitStack, chosen: list[Server], mock_port: int) -> list[processes.Running]:
    """The servers that listen; one that does not is named and left out, unless it is the gateway itself."""
    endpoint = f"http://127.0.0.1:{mock_port}"
    traces = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_BSP_SCHEDULE_DELAY": str(EXPORT_DELAY_MS)}
    running = []
    for server in chosen:
        environment = traces if server.name == TRACED else None
        try:
            with ExitStack() as own:
                found = own.enter_context(processes.listening(server, mock_port, environment=environment))
                measure.wait_until_ready(found)
                stack.push(own.pop_all())
            running.append(found)
        except RuntimeError as error:
            if server.name in (GATEWAY, TRACED):
                raise
            _announce(f"left out: {error}")
    return running


def _start_mock(stack: ExitStack, *, delay_s: float = 0.0) -> int:
    port = processes.free_ports(1)[0]
    command = [sys.executable, "-m", "benchmarks.gateway", "--upstream", str(port), "--delay-s", str(delay_s)]
    processes.wait_for(stack.enter_context(processes.running(command, index=1)), port)
    return port


def _overload(options: argparse.Namespace) -> int:
    """Measure under overload: the gateway on one processor, the load and the upstream on another."""
    server = servers(without=frozenset({*options.without, "keys", "fallback", "log"}), only=frozenset({GATEWAY}))[0]
    with ExitStack() as stack:
        mock_port = _start_mock(stack, delay_s=OVERLOAD_DELAY_S)
        gateway = stack.enter_context(processes.listening(server, mock_port))
        body = measure.request_of(server, gateway.port).body
        rounds = overload.measure(gateway.port, body, rounds=options.rounds, seconds=options.seconds)
    overload.show(rounds)
    if options.json:
        options.json.write_text(json.dumps([asdict(each) for each in rounds], indent=1) + "\n")
    return int(options.check and not overload.is_within(rounds))


def _facts(options: argparse.Namespace, chosen: list[Server]) -> dict[str, Any]:
    """What the figures are from. An interpreter built with PGO is 1.1 to 1.4 times faster."""
    return {
        "servers": [server.name for server in chosen],
        "without": options.without,
        "http_client": options.http_client,
        "rounds": options.rounds,
        "seconds": options.seconds,
        "python": platform.python_version(),
        "python_has_pgo": "-fprofile-use" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
        or "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or ""),
        "relay_environment": "pinned" if peers.is_installed(RELAY) else "the benchmark's own",
        "load_average": os.getloadavg()[0],
    }


def _announce(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
