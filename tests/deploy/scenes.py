"""Three nights on real processes, and the page "Routes" of each: slow worker, invalid output, expired provider key.

`python -m tests.deploy.scenes DIR` writes a picture of each (Chromium is needed). They are in docs/operations/night.md.
"""

import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from deploy.grafana.answers import Answered, Window, query_board
from deploy.grafana.boards.routes import ROUTES
from deploy.grafana.drawing import draw, layout
from deploy.grafana.preview import photograph
from tests.deploy.known import ROOT
from tests.deploy.night import Stage, key_of, serving
from tests.deploy.standin import StandIn
from twolane.bench.load import LoadOptions, run
from twolane.bench.plan import Call, Prompt, poisson
from twolane.demo.prompts import ANNA, AS_ORDER, SHORT, SLOPPY
from twolane.fault_proxy.control import Fault, Mode
from twolane.fault_proxy.proxy import FaultProxy

SCENES: Final = ("expired-key", "invalid-output", "slow-worker")  # what a lane remembers must not disturb the next
CALM_S: Final = 15.0
TROUBLE_S: Final = 30.0
PAUSE_S: Final = 12.0  # longer than a rate looks back
RATE: Final = 3.0


async def play(folder: Path) -> Mapping[str, tuple[Window, tuple[Answered, ...]]]:
    """What the page shows of each scene."""
    stage, found = Stage(folder=folder), {}
    async with serving(stage, ROOT / "tests/deploy/scenes.yaml") as (proxy, quality):
        options = LoadOptions(url=stage.url("gateway"), key=key_of("shop"), timeout_s=130.0)
        await run(_calls(CALM_S), options, on_result=lambda _: None)  # the worker is cold
        for name in SCENES:
            if name == "slow-worker":
                stage.policy.write_text(stage.policy.read_text().replace("p95_ms: 60000", "p95_ms: 2000"))
            await asyncio.sleep(PAUSE_S)
            begin_s = time.time()
            async with asyncio.TaskGroup() as group:
                group.create_task(run(_calls(CALM_S + TROUBLE_S), options, on_result=lambda _: None))
                group.create_task(_trouble(name, proxy, quality))
            window = Window(begin_s=begin_s, end_s=time.time(), step_s=1.0, rate_s=10.0)
            found[name] = (window, await asyncio.to_thread(query_board, ROUTES, stage.url("prometheus"), window))
    return found


async def _trouble(name: str, proxy: FaultProxy, quality: StandIn) -> None:
    await asyncio.sleep(CALM_S)
    async with _fault(name, proxy, quality):
        await asyncio.sleep(TROUBLE_S)


@asynccontextmanager
async def _fault(name: str, proxy: FaultProxy, quality: StandIn) -> AsyncIterator[None]:
    if name == "slow-worker":
        proxy.fault = Fault(mode=Mode.DELAY, seconds=4.0)
    elif name == "invalid-output":
        proxy.fault = Fault(mode=Mode.CORRUPT, share=0.8)
    quality.is_key_expired = name == "expired-key"
    try:
        yield
    finally:
        proxy.fault, quality.is_key_expired = Fault(), False


def _calls(seconds: float) -> list[Call]:
    bodies = [_body(SLOPPY, "edit", **SHORT), _body(ANNA, "structured", **AS_ORDER), _body(SLOPPY, "chat", **SHORT)]
    moments = poisson(RATE, seconds, 1)
    return [Call(due_s=due_s, prompt=Prompt(body=bodies[n % len(bodies)])) for n, due_s in enumerate(moments)]


def _body(text: str, task: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "metadata": {"task": task}, **more}


def main(folder: Path) -> int:
    """Write a picture of each scene."""
    folder.mkdir(parents=True, exist_ok=True)
    browser = shutil.which("chromium") or "chromium"
    with tempfile.TemporaryDirectory() as work:
        for name, (window, answers) in asyncio.run(play(Path(work))).items():
            page = Path(work) / f"{name}.svg"
            page.write_text(draw(ROUTES, answers, window), encoding="utf-8")
            shutil.copy(photograph(browser, page, height=layout(ROUTES)[1]), folder / f"{name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
