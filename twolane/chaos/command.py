"""`twolane chaos`: a steady load on two gateways while workers, gateways and Redis are killed, paused and spoilt.

The clients behave as the official ones do: at most two more tries, on the other gateway. Exit codes: 0 every request
ended once and enough of them well, 1 not so, 2 wrong use.
"""

import argparse
import asyncio
import json
import shutil
import signal
import sys
import tempfile
from collections import defaultdict
from collections.abc import Coroutine, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from twolane.bench.command import positive, share
from twolane.chaos.clients import Ended, clients
from twolane.chaos.environment import ChaosStage, Setting
from twolane.chaos.plan import GATEWAYS, Trouble, troubles
from twolane.chaos.report import Report, report, show
from twolane.process import bundled
from twolane.process.children import ProcessError
from twolane.process.flags import WRONG_USE, OneLineParser, WrongUseError, whole_number

GOOD: Final = 0
WORK_FAILED: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What was asked for on the command line."""

    seconds: float
    rate: float
    every_s: float
    seed: int
    success: float
    checkpoint: Path
    policy: Path
    json: Path | None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; what the processes said is kept if it failed."""
    page = Console(highlight=False)
    wish = parse(sys.argv[1:] if argv is None else argv)
    logs = Path(tempfile.mkdtemp(prefix="twolane-chaos-"))
    result = None
    try:
        found = asyncio.run(_until_stopped(wish, logs, page))
        if found is not None:
            show(found, page)
            _write(found, wish.json)
            result = GOOD if found.is_good(wish.success) else WORK_FAILED
    except WrongUseError as cause:
        print(f"twolane chaos: {cause}", file=sys.stderr)
        result = WRONG_USE
    except ProcessError as cause:
        print(f"twolane chaos: {cause}", file=sys.stderr)
    if result in (GOOD, WRONG_USE):
        shutil.rmtree(logs)
        return result
    print(f"twolane chaos: what the processes said is in {logs}", file=sys.stderr)
    return WORK_FAILED


async def _until_stopped(wish: Wish, logs: Path, page: Console) -> Report | None:
    """Run as a task that ctrl-C and SIGTERM cancel, so that every child is ended on every way out; then None."""
    work = asyncio.create_task(run(wish, logs, page))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, work.cancel)
    try:
        return await work
    except asyncio.CancelledError:
        return None


async def run(wish: Wish, logs: Path, page: Console) -> Report:
    """The whole run. Raises ProcessError if a part does not come back, WrongUseError if there is no Redis to start."""
    plan = troubles(wish.seconds, wish.every_s, wish.seed)
    page.print(f"{len(plan)} troubles in {wish.seconds:.0f} s, {wish.rate:g} requests a second; starting ...")
    async with ChaosStage(Setting(checkpoint=wish.checkpoint, policy=wish.policy, logs=logs)) as stage:
        before = stage.memory_bytes()
        ended: list[Ended] = []
        async with _watched(page, wish.seconds, ended):
            load = clients(stage.gateway_urls, wish.rate, wish.seconds, wish.seed, ended.append)
            made = await _trouble(stage, plan, load)
        after = stage.memory_bytes()
        logs_of = [stage.decision_log(gateway) for gateway in GATEWAYS]
    return report(ended, made, logs_of, memory=(before, after))  # after all have ended: their logs are complete


async def _trouble(stage: ChaosStage, plan: Sequence[Trouble], load: Coroutine[Any, Any, None]) -> list[Trouble]:
    """Load and troubles at once; returns the troubles with the times they really had. Raises ProcessError for the first
    part that does not come back."""
    begin_s = asyncio.get_running_loop().time()
    whole: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(load)
            tasks = [group.create_task(_make(stage, one, begin_s, whole[_kin(one.part)])) for one in plan]
    except* ProcessError as gone:
        raise gone.exceptions[0] from None
    return [task.result() for task in tasks]


async def _make(stage: ChaosStage, trouble: Trouble, begin_s: float, whole: asyncio.Lock) -> Trouble:
    """Once its time has come and its part is whole again, which on a busy machine may be later."""
    events = asyncio.get_running_loop()
    await asyncio.sleep(begin_s + trouble.at_s - events.time())
    async with whole:
        at_s = events.time() - begin_s
        await stage.hurt(trouble)
        await asyncio.sleep(trouble.seconds)
        await stage.heal(trouble)
    return replace(trouble, at_s=at_s, seconds=events.time() - begin_s - at_s)


def _kin(part: str) -> str:
    """Of gateways only one is in trouble at a time: clients have no third."""
    return "gateway" if part in GATEWAYS else part


class _watched:  # noqa: N801 - read as a word: `async with _watched(...)`
    """A line of progress while somebody looks."""

    def __init__(self, page: Console, seconds: float, ended: list[Ended]) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        self._bars = Progress(*columns, console=page, transient=True, disable=not page.is_terminal)
        self._seconds, self._ended = seconds, ended

    async def __aenter__(self) -> None:
        self._bars.start()
        self._task = asyncio.create_task(self._tick())

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        self._bars.stop()

    async def _tick(self) -> None:
        row = self._bars.add_task("", total=self._seconds)
        while True:
            await asyncio.sleep(1.0)
            good = sum(one.is_good for one in self._ended)
            self._bars.update(
                row, advance=1.0, description=f"{len(self._ended)} ended, {len(self._ended) - good} badly"
            )


def _write(found: Report, file: Path | None) -> None:
    if file is None:
        return
    try:
        file.write_text(json.dumps(asdict(found), indent=1) + "\n", encoding="utf-8")
    except OSError as fault:
        raise WrongUseError(f"cannot write {file}: {fault.strerror}") from None


def parse(argv: Sequence[str]) -> Wish:
    """Read the command line; exits 2 with one line where it is wrong."""
    parser = OneLineParser(prog="twolane chaos", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=_long_enough, default=600.0, metavar="N", help="how long (%(default)s)")
    parser.add_argument("--rate", type=positive, default=5.0, metavar="N", help="requests a second (%(default)s)")
    parser.add_argument(
        "--every", dest="every_s", type=positive, default=8.0, metavar="S", help="between two troubles, on average"
    )
    parser.add_argument("--seed", type=whole_number(0), default=1, metavar="N", help="of load and troubles")
    parser.add_argument("--success", type=share, default=0.999, metavar="X", help="least share that ends well")
    parser.add_argument("--checkpoint", type=Path, default=bundled.checkpoint(bundled.TINY_CHECKPOINT), metavar="DIR")
    parser.add_argument("--policy", type=Path, default=bundled.policy(bundled.CHAOS_POLICY), metavar="FILE")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there")
    return Wish(**vars(parser.parse_args(argv)))


def _long_enough(text: str) -> float:
    if (value := positive(text)) < 20.0:
        raise argparse.ArgumentTypeError(f"{text}: nothing can go wrong and heal in under 20 seconds")
    return value
