"""`twolane chaos`: a steady load on two gateways while faults are injected into workers, gateways and Redis.

The clients behave as the official ones do: up to two retries, alternating between the gateways. Exit codes: 0 every
request completed once and enough succeeded, 1 otherwise, 2 wrong use.
"""

import argparse
import asyncio
import contextlib
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from twolane.bench.command import positive, share
from twolane.chaos.clients import ClientOptions, RequestResult, run_clients
from twolane.chaos.environment import ChaosConfig, ChaosEnvironment
from twolane.chaos.plan import FAULT_FREE_S, GATEWAYS, FaultInjection, schedule_faults
from twolane.chaos.report import Report, report, show
from twolane.process import bundled
from twolane.process.children import ProcessError
from twolane.process.errors import WRONG_USE
from twolane.process.flags import OneLineParser, WrongUseError, whole_number

GOOD: Final = 0
WORK_FAILED: Final = 1
SHORTEST_S: Final = 20.0
TIMEOUT_MARGIN_S: Final = 10.0  # of clients, above the deadlines of the policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The command line."""

    seconds: float
    rate: float
    max_in_flight: int
    every_s: float
    seed: int
    success: float
    checkpoint: Path
    policy: Path
    json: Path | None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; the logs of the processes are kept after a failure."""
    console = Console(highlight=False)
    options = parse(sys.argv[1:] if argv is None else argv)
    logs = Path(tempfile.mkdtemp(prefix="twolane-chaos-"))
    code = None
    try:
        found = asyncio.run(_until_stopped(options, logs, console))
        if found is not None:
            show(found, console)
            _write(found, options.json)
            code = GOOD if found.passed(options.success) else WORK_FAILED
    except WrongUseError as cause:
        print(f"twolane chaos: {cause}", file=sys.stderr)
        code = WRONG_USE
    except ProcessError as cause:
        print(f"twolane chaos: {cause}", file=sys.stderr)
    if code in (GOOD, WRONG_USE):
        shutil.rmtree(logs)
        return code
    print(f"twolane chaos: the logs of the processes are in {logs}", file=sys.stderr)
    return WORK_FAILED


async def _until_stopped(options: Options, logs: Path, console: Console) -> Report | None:
    """Run as a task that ctrl-C and SIGTERM cancel, so that its children always end with it; None if cancelled."""
    task = asyncio.create_task(run(options, logs, console))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        return None


async def run(options: Options, logs: Path, console: Console) -> Report:
    """Run load and faults. Raises ProcessError if a part does not recover, WrongUseError if Redis is not installed."""
    scheduled = schedule_faults(options.seconds, options.every_s, options.seed)
    console.print(
        f"{len(scheduled)} faults in {options.seconds:.0f} s, {options.rate:g} requests per second; starting ..."
    )
    config = ChaosConfig(checkpoint=options.checkpoint, policy=options.policy, logs=logs)
    async with ChaosEnvironment(config) as environment:
        before = environment.memory_bytes()
        results: list[RequestResult] = []
        ended = asyncio.Event()
        clients = ClientOptions(
            urls=environment.gateway_urls,
            rate=options.rate,
            in_flight=options.max_in_flight,
            timeout_s=environment.limits.deadline_s + TIMEOUT_MARGIN_S,
            seed=options.seed,
        )
        try:
            async with _progress(console, options.seconds, results), asyncio.TaskGroup() as group:
                group.create_task(run_clients(clients, ended, results.append))
                injected, delay_s = await inject_all(environment, scheduled, options.seconds)
                ended.set()
        except* ProcessError as errors:
            raise errors.exceptions[0] from None
        after = environment.memory_bytes()
        decision_logs = [environment.decision_log(gateway) for gateway in GATEWAYS]
    memory = (before, after)  # logs are complete once the gateways have ended
    return report(results, injected, decision_logs, memory=memory, delay_s=delay_s)


class Parts(Protocol):
    """What faults are injected into."""

    async def inject(self, injection: FaultInjection) -> None:
        """Start a fault."""

    async def recover(self, injection: FaultInjection) -> None:
        """End a fault, and wait until the part serves again."""


async def inject_all(
    parts: Parts, scheduled: Sequence[FaultInjection], seconds: float
) -> tuple[list[FaultInjection], float]:
    """Inject the faults and return after `seconds`: the faults with their actual times, and the delay in seconds.

    The schedule waits for parts that have not recovered when planned, so that a slow machine takes longer, but never
    has more faults at once than planned. Raises an ExceptionGroup of ProcessError if a part does not recover.
    """
    loop = asyncio.get_running_loop()
    begin_s, delay_s = loop.time(), 0.0
    tasks: list[asyncio.Task[FaultInjection]] = []

    async def reach(at_s: float, unfinished: Sequence[asyncio.Task[FaultInjection]]) -> float:
        await asyncio.sleep(begin_s + at_s + delay_s - loop.time())
        await asyncio.gather(*unfinished)
        return loop.time() - begin_s - at_s

    async with asyncio.TaskGroup() as group:
        for one in scheduled:
            due = [task for task, earlier in zip(tasks, scheduled, strict=False) if earlier.serves_s <= one.at_s]
            delay_s = await reach(one.at_s, due)
            tasks.append(group.create_task(_inject(parts, one, begin_s)))
        delay_s = await reach(seconds - FAULT_FREE_S, tasks)
        delay_s = await reach(seconds, ())
    return [task.result() for task in tasks], delay_s


async def _inject(parts: Parts, injection: FaultInjection, begin_s: float) -> FaultInjection:
    loop = asyncio.get_running_loop()
    at_s = loop.time() - begin_s
    await parts.inject(injection)
    await asyncio.sleep(injection.seconds)
    await parts.recover(injection)
    return replace(injection, at_s=at_s, seconds=loop.time() - begin_s - at_s)


@contextlib.asynccontextmanager
async def _progress(console: Console, seconds: float, results: list[RequestResult]) -> AsyncIterator[None]:
    """Show a progress bar, in a terminal only."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        bar = bars.add_task("", total=seconds)

        async def update() -> None:
            while True:
                await asyncio.sleep(1.0)
                failed = sum(not one.succeeded for one in results)
                bars.update(bar, advance=1.0, description=f"{len(results)} completed, {failed} failed")

        task = asyncio.create_task(update())
        try:
            yield
        finally:
            task.cancel()


def _write(found: Report, file: Path | None) -> None:
    if file is None:
        return
    try:
        file.write_text(json.dumps(asdict(found), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise WrongUseError(f"cannot write {file}: {error.strerror}") from None


def parse(argv: Sequence[str]) -> Options:
    """Parse the command line; exits with code 2 and one line if it is wrong."""
    parser = OneLineParser(
        prog="twolane chaos",
        description="Send a steady load to two gateways on loopback while workers, gateways and Redis are killed, "
        "paused or affected by a fault proxy, and report failed and duplicate requests. Requires redis-server.",
    )
    parser.add_argument(
        "--seconds",
        type=_duration,
        default=600.0,
        metavar="N",
        help="duration, at least 20 seconds; longer if parts recover later than planned (default: %(default)g)",
    )
    parser.add_argument(
        "--rate", type=positive, default=5.0, metavar="N", help="requests per second (default: %(default)g)"
    )
    parser.add_argument(
        "--max-in-flight",
        type=whole_number(1),
        default=64,
        metavar="N",
        help="requests at once; further ones are sent later (default: %(default)s)",
    )
    parser.add_argument(
        "--every",
        dest="every_s",
        type=positive,
        default=8.0,
        metavar="S",
        help="average seconds between two faults (default: %(default)g)",
    )
    parser.add_argument(
        "--seed", type=whole_number(0), default=1, metavar="N", help="random seed (default: %(default)s)"
    )
    parser.add_argument(
        "--success",
        type=share,
        default=0.999,
        metavar="X",
        help="minimum share of successful requests (default: %(default)s)",
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=bundled.checkpoint(bundled.TINY_CHECKPOINT),
        metavar="DIR",
        help="checkpoint of the workers (default: the bundled twolane-tiny)",
    )
    parser.add_argument(
        "--policy",
        type=Path,
        default=bundled.policy(bundled.CHAOS_POLICY),
        metavar="FILE",
        help="policy of the gateways (default: the bundled chaos policy)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report to this file")
    return Options(**vars(parser.parse_args(argv)))


def _duration(text: str) -> float:
    if (value := positive(text)) < SHORTEST_S:  # a shorter run has no time for a fault and its recovery
        raise argparse.ArgumentTypeError(f"{text}: must be at least {SHORTEST_S:g} seconds")
    return value
