"""A degradation scenario of one minute: worker, fake quality server, gateway, Redis and Prometheus run as in
production, with a load and faults. The data of Prometheus is kept, and the dashboards are drawn from it.
"""

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import time
import urllib.request
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from deploy.grafana.answers import Answered, Window, query_board
from deploy.grafana.boards import BOARDS
from deploy.grafana.preview import preview
from tests.deploy.known import ROOT
from tests.deploy.standin import StandIn
from twolane.bench.load import LoadOptions, Sample, run
from twolane.bench.plan import Call, Prompt, poisson
from twolane.chaos.environment import redis_command
from twolane.demo.prompts import ANNA, AS_ORDER, SHORT, SLOPPY
from twolane.fault_proxy.control import Fault, Mode
from twolane.fault_proxy.proxy import FaultProxy
from twolane.process.api_keys import key_line
from twolane.process.children import Child, Command, twolane_command
from twolane.process.flags import free_port

SECONDS = 45.0
RATE = 5.0
STEP_S = 1.0  # between the points of a graph
RATE_S = 10.0  # the window of rates
PERCENTILE = "twolane_lane_p95_seconds"
UP_WITHIN_S = 900.0
PARTS = ("worker", "quality", "gateway", "admin", "redis", "prometheus")
LANES = {"fast", "careful", "quality"}
TENANTS = ("shop", "wiki", "batch")  # API keys: each is the key of its name
OVER_LIMIT = "Who is over a limit?"  # the title of a panel
BATCH = 12  # requests at once of the tenant that has a limit of four per minute
# The fault of the fast lane's answers, by the second at which it starts.
TROUBLES = (
    (10.0, Fault(mode=Mode.CORRUPT, share=0.6)),
    (20.0, Fault(mode=Mode.BROKEN)),
    (25.0, Fault(mode=Mode.DELAY, seconds=2.0)),
    (37.0, Fault()),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Night:
    """The results of the scenario."""

    samples: list[Sample]
    answers: Mapping[str, tuple[Answered, ...]]
    complaints: list[str]
    pages: Mapping[str, str]
    rules: list[dict[str, Any]]
    pictures: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """The addresses and files of all parts."""

    folder: Path
    ports: Mapping[str, int] = field(default_factory=lambda: {part: free_port() for part in PARTS})

    def url(self, part: str) -> str:
        return f"http://127.0.0.1:{self.ports[part]}"

    @property
    def policy(self) -> Path:
        return self.folder / "policy.yaml"


async def play(folder: Path, pictures: Path) -> Night:
    """Run the whole scenario; all processes have ended afterwards."""
    stage = Stage(folder=folder)
    samples: list[Sample] = []
    async with serving(stage, ROOT / "tests/deploy/night.yaml") as (proxy, _):
        begin_s = time.time()
        async with asyncio.TaskGroup() as group:
            for seed, stream in enumerate((False, True)):
                options = LoadOptions(url=stage.url("gateway"), stream=stream, key=key_of(TENANTS[seed]))
                group.create_task(run(_calls(seed), options, on_result=samples.append))
            group.create_task(_exceed_limit(stage, after_s=8.0))
            group.create_task(_spoil(proxy))
            group.create_task(_crowd(stage))
            group.create_task(_change_policy(stage))
        for _ in range(3):  # what a query finds may change while later samples arrive
            pages = await _until_data(stage, proxy, samples, begin_s)
            night = await asyncio.to_thread(_look, stage, samples, pages, _window(begin_s), pictures)
            if not night.complaints:
                break
        return night


def _look(stage: Stage, samples: list[Sample], pages: Mapping[str, str], window: Window, pictures: Path) -> Night:
    shutil.rmtree(pictures, ignore_errors=True)
    pictures.mkdir(parents=True)
    url = stage.url("prometheus")
    rules = json.loads(_read(f"{url}/api/v1/rules"))["data"]["groups"]
    return Night(
        samples=samples,
        complaints=preview(url, pictures, window),
        answers={board.uid: query_board(board, url, window) for board in BOARDS},
        pages=pages,
        rules=[rule for group in rules for rule in group["rules"]],
        pictures=pictures,
    )


@contextlib.asynccontextmanager
async def serving(stage: Stage, policy: Path) -> AsyncIterator[tuple[FaultProxy, StandIn]]:
    """All parts; the faults of the fast lane, and the quality server."""
    async with contextlib.AsyncExitStack() as parts:
        shutil.copy(policy, stage.policy)
        proxy = await parts.enter_async_context(FaultProxy(stage.url("worker")))
        quality = await parts.enter_async_context(StandIn(stage.ports["quality"]))
        await parts.enter_async_context(Child(redis_command(stage.folder, stage.ports["redis"])))
        worker = await parts.enter_async_context(Child(_worker(stage)))
        await worker.serve(f"{stage.url('worker')}/health", within_s=UP_WITHIN_S)
        gateway = await parts.enter_async_context(Child(_gateway(stage, proxy.url)))
        await gateway.serve(f"{stage.url('gateway')}/health", within_s=UP_WITHIN_S)
        prometheus = await parts.enter_async_context(Child(_prometheus(stage)))
        await prometheus.serve(f"{stage.url('prometheus')}/-/ready", within_s=UP_WITHIN_S)
        yield proxy, quality


def key_of(name: str) -> str:
    """The API key with this name."""
    return f"tl-{name}"


def _worker(stage: Stage) -> Command:
    """Its batch and queue are so small that requests wait and some are rejected."""
    line = ("--checkpoint", str(ROOT / "checkpoints/twolane-tiny"), "--port", str(stage.ports["worker"]))
    room = ("--threads", "1", "--max-num-seqs", "3", "--max-waiting", "6")
    return twolane_command("worker", (*line, *room), environment={}, logs=stage.folder)


def _gateway(stage: Stage, spoilt_url: str) -> Command:
    keys = [key_line(name, key_of(name)) for name in TENANTS]
    keys.append(key_line("prometheus", key_of("prometheus"), ["scopes=metrics"]))
    (stage.folder / "keys").write_text("\n".join(keys) + "\n")
    environment = {
        "SPOILT_URL": spoilt_url,
        "WORKER_URL": stage.url("worker"),
        "QUALITY_URL": stage.url("quality"),
        "PROVIDER_KEY": "unused",
        "TWOLANE_POLICY": str(stage.policy),
        "TWOLANE_PORT": str(stage.ports["gateway"]),
        "TWOLANE_ADMIN_PORT": str(stage.ports["admin"]),
        "TWOLANE_REDIS_URL": f"redis://127.0.0.1:{stage.ports['redis']}/0",
        "TWOLANE_DECISION_LOG": str(stage.folder / "decisions.jsonl"),
        "TWOLANE_KEYS_FILE": str(stage.folder / "keys"),
    }
    return twolane_command("serve", (), environment=environment, logs=stage.folder)


def _prometheus(stage: Stage) -> Command:
    """The shipped configuration with the test's addresses and a scrape interval of one second."""
    yaml = YAML(typ="safe")
    setting = yaml.load(ROOT / "deploy/prometheus/prometheus.yml")
    setting["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    setting["rule_files"] = [str(ROOT / "deploy/prometheus" / files) for files in setting["rule_files"]]
    ports = {"twolane-gateway": stage.ports["admin"], "twolane-worker": stage.ports["worker"]}
    for job in setting["scrape_configs"]:
        job["static_configs"] = [{"targets": [f"127.0.0.1:{ports[job['job_name']]}"]}]
        job["authorization"] = {"credentials": key_of("prometheus")}
    file = stage.folder / "prometheus.yml"
    yaml.dump(setting, file)
    line = ("prometheus", f"--config.file={file}", f"--storage.tsdb.path={stage.folder / 'series'}")
    line = (*line, f"--web.listen-address=127.0.0.1:{stage.ports['prometheus']}", "--log.level=warn")
    return Command(name="prometheus", line=line, environment=dict(os.environ), log=stage.folder / "prometheus.log")


def _calls(seed: int) -> list[Call]:
    orders = [_body(ANNA, task, **AS_ORDER) for task in ("structured", "structured", "extraction", "code")]
    bodies = [*orders, *(_body(SLOPPY, task, **SHORT) for task in ("edit", "reasoning", "chat"))]
    moments = poisson(RATE / 2, SECONDS, seed)
    return [Call(due_s=due_s, prompt=Prompt(body=bodies[n % len(bodies)])) for n, due_s in enumerate(moments)]


def _body(text: str, task: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "metadata": {"task": task}, **more}


async def _spoil(proxy: FaultProxy) -> None:
    at_s = 0.0
    for when_s, fault in TROUBLES:
        await asyncio.sleep(when_s - at_s)
        at_s, proxy.fault = when_s, fault


async def _crowd(stage: Stage) -> None:
    """Send twice as many concurrent requests as the worker admits, directly, because the gateway would not send
    them."""
    for number in range(3):
        await asyncio.sleep(8.0)
        bodies = [_body(ANNA, "", **{**AS_ORDER, "seed": 20 * number + n}) for n in range(20)]
        calls = [Call(due_s=0.0, prompt=Prompt(body=body)) for body in bodies]
        await run(calls, LoadOptions(url=stage.url("worker"), model="diffusion"), on_result=lambda _: None)


async def _exceed_limit(stage: Stage, *, after_s: float = 0.0) -> None:
    """Send more requests of one tenant than the policy allows it; a rate needs scrapes before and between them."""
    body = _body(SLOPPY, "chat", **SHORT)
    calls = [Call(due_s=after_s if number else 0.0, prompt=Prompt(body=body)) for number in range(BATCH)]
    await run(calls, LoadOptions(url=stage.url("gateway"), key=key_of("batch")), on_result=lambda _: None)


async def _change_policy(stage: Stage) -> None:
    """Touch, change and finally corrupt the policy: the scenario ends with a policy that does not load."""
    text = stage.policy.read_text()
    for pause_s, now in ((6.0, f"{text}\n# more"), (6.0, text.replace("0.9999", "0.9998")), (22.0, f"{text}\n]")):
        await asyncio.sleep(pause_s)
        stage.policy.write_text(now)


async def _until_data(stage: Stage, proxy: FaultProxy, samples: list[Sample], begin_s: float) -> dict[str, str]:
    """Send more requests, some of them to a failing lane, until each query of a panel has data from `begin_s` on,
    the percentile of a lane is exported and each lane has answered; returns the pages of metrics. On a slow machine
    the scenario alone may be too short: a percentile needs twenty answers within its window, and a rate needs an
    increase between two scrapes."""
    bodies = [_body(SLOPPY, task, **SHORT) for task in ("summarize", "summarize", "edit", "reasoning", "chat")]
    bodies.append(_body(ANNA, "structured", **AS_ORDER))
    calls = [Call(due_s=0.0, prompt=Prompt(body=body)) for body in bodies]
    async with asyncio.timeout(UP_WITHIN_S):
        for fault in itertools.cycle((Fault(), Fault(mode=Mode.CORRUPT, share=0.6))):
            proxy.fault = fault
            for stream in (False, True):
                options = LoadOptions(url=stage.url("gateway"), stream=stream, key=key_of(TENANTS[0]))
                await run(calls, options, on_result=samples.append)
            await _exceed_limit(stage)
            proxy.fault = Fault()
            parts = ("admin", "worker")
            pages = {part: await asyncio.to_thread(_read, f"{stage.url(part)}/metrics") for part in parts}
            is_ready = f"{PERCENTILE}{{" in pages["admin"] and _have_answered(samples) >= LANES
            if is_ready and await asyncio.to_thread(_all_have_data, stage, begin_s):
                return pages
    raise AssertionError("unreachable")


def _have_answered(samples: list[Sample]) -> set[str | None]:
    return {sample.headers.get("target") for sample in samples}


def _window(begin_s: float) -> Window:
    return Window(begin_s=begin_s, end_s=time.time(), step_s=STEP_S, rate_s=RATE_S)


def _all_have_data(stage: Stage, begin_s: float) -> bool:
    window = _window(begin_s)
    answers = [answered for board in BOARDS for answered in query_board(board, stage.url("prometheus"), window)]
    over_limit = next(answered for answered in answers if answered.panel.title == OVER_LIMIT)
    is_seen = any(value > 0 for curve in over_limit.curves for _, value in curve.points)  # a counter begins with 0
    return is_seen and not any(answered.complaints for answered in answers)


def _read(url: str) -> str:
    asked = urllib.request.Request(url, headers={"authorization": f"Bearer {key_of('prometheus')}"})
    with urllib.request.urlopen(asked, timeout=120) as answer:
        return answer.read().decode()
