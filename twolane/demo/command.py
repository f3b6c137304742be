"""`twolane demo`: starts a worker, a quality server and the gateway, sends a tour of real requests, shows the outcome.

The story of the demo in one file; each step it calls is a module of its own.
"""

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

from twolane.demo import page as pages
from twolane.demo.case_types import Chapter, Scene
from twolane.demo.cases import TOUR
from twolane.demo.client import connect, send_row
from twolane.demo.counters import Counters, read_counters
from twolane.demo.environment import DEFAULT_PORTS, Setting, Stage, choose_ports
from twolane.demo.expectations import Verdict, judge
from twolane.process import bundled
from twolane.process.children import ProcessError
from twolane.process.flags import WRONG_USE, OneLineParser, WrongUseError
from twolane.weights import WeightsUnavailableError, ensure_weights

IMPORTED_BY_CHILDREN: Final = ("torch", "transformers", "jsonschema", "xllamacpp")  # checked before any process starts
WORK_FAILED: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the command line asked for."""

    once: bool
    tour: bool
    free_ports: bool
    checkpoint: Path
    policy: Path
    has_smollm2: bool = True  # otherwise the quality lane is a second worker


def main(argv: Sequence[str]) -> int:
    """Play the tour. Returns 0 if every row came out as stated, 1 if not or when interrupted, 2 if it cannot start.

    Without --once it goes on serving after the tour until ctrl-C or SIGTERM, and then returns what the tour deserved.
    """
    wish = _parse(argv)
    page = pages.open_page()
    try:
        _look_for_files(wish)
        wish = replace(wish, has_smollm2=_fetch_smollm2(page))
    except WrongUseError as cause:
        print(f"twolane demo: {cause}", file=sys.stderr)
        return WRONG_USE
    except KeyboardInterrupt:  # during the download
        return WORK_FAILED
    logs = Path(tempfile.mkdtemp(prefix="twolane-demo-"))
    result = asyncio.run(_until_stopped(page, wish, logs))
    if result is not None and result != 0:
        print(f"twolane demo: what the processes said is in {logs}", file=sys.stderr)
        return result
    shutil.rmtree(logs)
    return WORK_FAILED if result is None else result


async def _until_stopped(page: Console, wish: Wish, logs: Path) -> int | None:
    """Run the demo as a task that ctrl-C and SIGTERM cancel, so that every child is ended on every way out.

    Returns its result, None when it was interrupted before it had one.
    """
    demo = asyncio.create_task(_demo(page, wish, logs))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, demo.cancel)
    try:
        return await demo
    except asyncio.CancelledError:
        return None
    except ProcessError as cause:
        print(f"twolane demo: {cause}", file=sys.stderr)
        return WORK_FAILED


async def _demo(page: Console, wish: Wish, logs: Path) -> int:
    setting = _setting(page, wish, logs)
    page.print("Starting a diffusion worker, a quality server and the gateway ...", style="dim")
    async with Stage(setting) as stage:
        pages.show_opening(page, gateway_url=setting.url("gateway"), admin_url=setting.url("admin"))
        result = await _tour(page, stage) if wish.tour else 0
        if not wish.once:
            pages.show_invitation(page, gateway_url=setting.url("gateway"))
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            page.print("Ending ...", style="dim")
        return result


async def _tour(page: Console, stage: Stage) -> int:
    """Play every chapter, then read what the gateway counted meanwhile; whatever was disturbed must serve again."""
    verdicts: list[Verdict] = []
    async with connect(stage.setting.url("gateway")) as client:
        for chapter in TOUR:
            skipped = [] if stage.setting.has_smollm2 else [row for row in chapter.rows if row.needs_smollm2]
            rows = [row for row in chapter.rows if row not in skipped]
            played = await _play(page, stage, client, replace(chapter, rows=tuple(rows)))
            pages.show_chapter(page, chapter, played)
            for row in skipped:
                pages.show_skipped(page, row, "requires SmolLM2")
            verdicts += played
    await stage.change(Scene.CALM)
    counters = await _counters(stage)
    pages.show_counters(page, counters)
    for complaint in counters.lanes_out:
        pages.show_complaint(page, complaint)
    pages.show_result(page, verdicts)
    return result_of(verdicts, counters)


def result_of(verdicts: Sequence[Verdict], counters: Counters) -> int:
    """Return 0 exactly if every row came out as stated and every lane serves in the end."""
    passed = bool(verdicts) and all(verdict.passed for verdict in verdicts) and not counters.lanes_out
    return 0 if passed else WORK_FAILED


async def _play(page: Console, stage: Stage, client: openai.AsyncOpenAI, chapter: Chapter) -> list[Verdict]:
    verdicts = []
    with pages.waiting(page, chapter.title) as now:
        for row in chapter.rows:
            now(row.asked)
            await stage.change(row.scene)
            if row.scene is not Scene.KILLED and not row.until:  # what is sent until it works may be sent before
                await stage.until_fast_lane_serves()
            verdicts.append(judge(row, await send_row(client, row)))
    return verdicts


async def _counters(stage: Stage) -> Counters:
    async with httpx.AsyncClient(timeout=60.0, trust_env=False) as client:
        metrics = await client.get(f"{stage.setting.url('admin')}/metrics")
    return read_counters(metrics.raise_for_status().text)


def _parse(argv: Sequence[str]) -> Wish:
    parser = OneLineParser(
        prog="twolane demo", description="Both lanes and the gateway on loopback, and a tour through."
    )
    parser.add_argument("--once", action="store_true", help="end after the tour; exit 0 only if all came out as stated")
    parser.add_argument("--no-tour", action="store_true", help="start everything and serve, without the tour")
    parser.add_argument("--free-ports", action="store_true", help="take any free ports instead of the usual ones")
    parser.add_argument("--checkpoint", type=Path, default=bundled.checkpoint(bundled.TINY_CHECKPOINT), metavar="DIR")
    parser.add_argument("--policy", type=Path, default=bundled.policy(bundled.DEMO_POLICY), metavar="FILE")
    read = parser.parse_args(argv)
    return Wish(
        once=read.once,
        tour=not read.no_tour,
        free_ports=read.free_ports,
        checkpoint=read.checkpoint,
        policy=read.policy,
    )


def _look_for_files(wish: Wish) -> None:
    """Raise WrongUseError before anything is started if something to start it with is missing."""
    missing = [name for name in IMPORTED_BY_CHILDREN if importlib.util.find_spec(name) is None]
    if missing:
        raise WrongUseError(f"the package {missing[0]} is missing: pip install 'twolane[demo]'")
    if not (wish.checkpoint / "config.json").is_file():
        raise WrongUseError(f"no checkpoint in {wish.checkpoint}: choose one with --checkpoint")
    if not wish.policy.is_file():
        raise WrongUseError(f"no policy at {wish.policy}: choose one with --policy")


def _fetch_smollm2(page: Console) -> bool:
    """Return whether the weights of SmolLM2 are available; if not, print why and what is used instead."""
    try:
        ensure_weights(lambda line: page.print(line, style="dim", soft_wrap=True))
    except WeightsUnavailableError as cause:
        page.print(
            f"SmolLM2 is not available ({cause}); using twolane-tiny with left-to-right decoding as the quality lane.",
            style="yellow", soft_wrap=True, markup=False,
        )  # fmt: skip
        return False
    return True


def _setting(page: Console, wish: Wish, logs: Path) -> Setting:
    ports = choose_ports(free_only=wish.free_ports)
    moved = [f"{part} {ports[part]}" for part, port in DEFAULT_PORTS.items() if ports[part] != port]
    if moved and not wish.free_ports:
        page.print(f"Some usual ports are taken, so these are used: {', '.join(moved)}.", style="yellow")
    return Setting(checkpoint=wish.checkpoint, policy=wish.policy, logs=logs, ports=ports, has_smollm2=wish.has_smollm2)
