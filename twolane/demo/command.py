"""`twolane demo`: starts a worker, a quality server and the gateway, sends sample requests and prints the results."""

import asyncio
import contextlib
import importlib.util
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import httpx
import openai
from rich.console import Console

from twolane.demo import output
from twolane.demo.case_types import DemoFault, Group
from twolane.demo.cases import GROUPS
from twolane.demo.client import connect, send_case
from twolane.demo.counters import Counters, read_counters
from twolane.demo.environment import DEFAULT_PORTS, DemoConfig, DemoEnvironment, choose_ports
from twolane.demo.expectations import CaseResult, evaluate
from twolane.process import bundled
from twolane.process.children import ProcessError
from twolane.process.errors import WRONG_USE
from twolane.process.flags import OneLineParser, WrongUseError
from twolane.weights import WeightsUnavailableError, ensure_weights

IMPORTED_BY_CHILDREN: Final = ("torch", "transformers", "jsonschema", "xllamacpp")  # checked before any process starts
WORK_FAILED: Final = 1
GROUPS_IN_PICTURE: Final = 2
GroupResults = list[tuple[Group, list[CaseResult]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The command line."""

    once: bool
    serve_only: bool
    free_ports: bool
    checkpoint: Path
    policy: Path
    picture: Path | None
    has_smollm2: bool = True  # otherwise the quality lane is a second worker


def main(argv: Sequence[str]) -> int:
    """Run the demo. Returns 0 if all cases passed, 1 if not or if interrupted, 2 if it cannot start.

    Without --once it keeps serving after the sample requests, until ctrl-C or SIGTERM, and then returns their result.
    """
    console = output.open_console()
    try:
        options = _parse(argv)
        _check_files(options)
        options = replace(options, has_smollm2=_fetch_smollm2(console))
    except WrongUseError as cause:
        print(f"twolane demo: {cause}", file=sys.stderr)
        return WRONG_USE
    except KeyboardInterrupt:  # during the download
        return WORK_FAILED
    logs = Path(tempfile.mkdtemp(prefix="twolane-demo-"))
    code = asyncio.run(_until_stopped(console, options, logs))
    if code is not None and code != 0:
        print(f"twolane demo: the logs of the processes are in {logs}", file=sys.stderr)
        return code
    shutil.rmtree(logs)
    return WORK_FAILED if code is None else code


async def _until_stopped(console: Console, options: Options, logs: Path) -> int | None:
    """Run the demo as a task that ctrl-C and SIGTERM cancel, so that its children always end with it.

    Returns its exit code, None if it was interrupted before it had one.
    """
    demo = asyncio.create_task(_demo(console, options, logs))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, demo.cancel)
    try:
        return await demo
    except asyncio.CancelledError:
        return None
    except ProcessError as cause:
        print(f"twolane demo: {cause}", file=sys.stderr)
        return WORK_FAILED


async def _demo(console: Console, options: Options, logs: Path) -> int:
    config = _config(console, options, logs)
    console.print("Starting a diffusion worker, a quality server and the gateway ...", style="dim")
    async with DemoEnvironment(config) as environment:
        output.show_addresses(console, gateway_url=config.url("gateway"), admin_url=config.url("admin"))
        code = 0 if options.serve_only else await _send_requests(console, environment, options.picture)
        if not options.once:
            output.show_example(console, gateway_url=config.url("gateway"))
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            console.print("Stopping ...", style="dim")
        return code


async def _send_requests(console: Console, environment: DemoEnvironment, picture: Path | None) -> int:
    """Run all groups, then print the gateway's metrics; every lane must have recovered from its faults."""
    groups: GroupResults = []
    async with connect(environment.config.url("gateway")) as client:
        for group in GROUPS:
            skipped = [] if environment.config.has_smollm2 else [case for case in group.cases if case.needs_smollm2]
            sent = tuple(case for case in group.cases if case not in skipped)
            results = await _run_group(console, environment, client, replace(group, cases=sent))
            output.show_group(console, group, results)
            for case in skipped:
                output.show_skipped(console, case, "requires SmolLM2")
            groups.append((group, results))
    await environment.inject(DemoFault.NONE)
    counters = await _counters(environment)
    output.show_counters(console, counters)
    for failure in counters.lanes_not_serving:
        output.show_failure(console, failure)
    all_results = [result for _, results in groups for result in results]
    output.show_result(console, all_results)
    if picture is not None:
        output.save_picture(picture, groups[:GROUPS_IN_PICTURE], all_results)
    return exit_code(all_results, counters)


def exit_code(results: Sequence[CaseResult], counters: Counters) -> int:
    """Return 0 if there are cases, all of them passed, and every lane is serving at the end."""
    passed = bool(results) and all(result.passed for result in results) and not counters.lanes_not_serving
    return 0 if passed else WORK_FAILED


async def _run_group(
    console: Console, environment: DemoEnvironment, client: openai.AsyncOpenAI, group: Group
) -> list[CaseResult]:
    results = []
    with output.progress(console, group.title) as show_case:
        for case in group.cases:
            show_case(case.title)
            await environment.inject(case.fault)
            if case.fault is not DemoFault.WORKER_KILLED and not case.repeat:  # a repeated case waits in its own loop
                await environment.until_fast_lane_serves()
            results.append(evaluate(case, await send_case(client, case)))
    return results


async def _counters(environment: DemoEnvironment) -> Counters:
    async with httpx.AsyncClient(timeout=60.0, trust_env=False) as client:
        metrics = await client.get(f"{environment.config.url('admin')}/metrics")
    return read_counters(metrics.raise_for_status().text)


def _parse(argv: Sequence[str]) -> Options:
    parser = OneLineParser(
        prog="twolane demo",
        description="Start a diffusion worker, a quality server and the gateway on loopback, send sample requests "
        "through the gateway, print the results, and keep serving until ctrl-C.",
    )
    parser.add_argument("--once", action="store_true", help="exit after the sample requests; 0 only if all passed")
    parser.add_argument("--serve-only", action="store_true", help="start and serve without sending sample requests")
    parser.add_argument("--free-ports", action="store_true", help="use any free ports instead of the default ones")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=bundled.checkpoint(bundled.TINY_CHECKPOINT),
        metavar="DIR",
        help="checkpoint of the worker (default: the bundled twolane-tiny)",
    )
    parser.add_argument(
        "--policy",
        type=Path,
        default=bundled.policy(bundled.DEMO_POLICY),
        metavar="FILE",
        help="policy of the gateway (default: the bundled demo policy)",
    )
    parser.add_argument(
        "--picture", type=Path, metavar="FILE.svg", help=f"save the first {GROUPS_IN_PICTURE} tables as a picture"
    )
    parsed = parser.parse_args(argv)
    if parsed.serve_only and (parsed.once or parsed.picture):
        parser.error("--serve-only cannot be combined with --once or --picture")
    return Options(**vars(parsed))


def _check_files(options: Options) -> None:
    """Raise WrongUseError if a package or a file is missing, before any process starts."""
    missing = [name for name in IMPORTED_BY_CHILDREN if importlib.util.find_spec(name) is None]
    if missing:
        raise WrongUseError(f"the package {missing[0]} is missing: pip install 'twolane[demo]'")
    if not (options.checkpoint / "config.json").is_file():
        raise WrongUseError(f"no checkpoint in {options.checkpoint}: choose one with --checkpoint")
    if not options.policy.is_file():
        raise WrongUseError(f"no policy at {options.policy}: choose one with --policy")
    if options.picture is not None and not options.picture.absolute().parent.is_dir():
        raise WrongUseError(f"--picture: no folder {options.picture.parent}")


def _fetch_smollm2(console: Console) -> bool:
    """Return whether the weights of SmolLM2 are available; if not, print why and what is used instead."""
    try:
        ensure_weights(lambda line: console.print(line, style="dim", soft_wrap=True))
    except WeightsUnavailableError as cause:
        console.print(
            f"SmolLM2 is not available ({cause}); using twolane-tiny with left-to-right decoding as the quality lane.",
            style="yellow", soft_wrap=True, markup=False,
        )  # fmt: skip
        return False
    return True


def _config(console: Console, options: Options, logs: Path) -> DemoConfig:
    ports = choose_ports(free_only=options.free_ports)
    moved = [f"{part} {ports[part]}" for part, port in DEFAULT_PORTS.items() if ports[part] != port]
    if moved and not options.free_ports:
        console.print(f"Default ports are in use; using other ports: {', '.join(moved)}.", style="yellow")
    return DemoConfig(
        checkpoint=options.checkpoint, policy=options.policy, logs=logs, ports=ports, has_smollm2=options.has_smollm2
    )
