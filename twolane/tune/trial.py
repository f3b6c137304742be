"""One trial: a live worker under a load of the user's prompts, its answers judged and its memory watched.

Knows the worker's wire, its health and its admin port; knows nothing of which trials are worth making.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Final

import httpx
import jsonschema
import orjson

from twolane.bench.figures import figures
from twolane.bench.load import OK, Manner, Sample, run
from twolane.bench.plan import Call, Prompt
from twolane.process.flags import WrongUseError
from twolane.tune.plan import Knobs, Trial

WATCH_EVERY_S: Final = 0.5
SETTLES_S: Final = 20.0  # what a trial left behind is waited for before the next


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """The worker on trial. `admin_url` None: the number of requests that advance together stays as it is. `matches`: a
    right answer matches it as a whole, where a prompt expects nothing else."""

    manner: Manner
    admin_url: str | None
    most_seqs: int
    matches: re.Pattern[str] | None = None


async def look(url: str) -> dict[str, Any]:
    """The worker's health. Raises WrongUseError if there is no worker that serves."""
    try:
        async with httpx.AsyncClient(timeout=10.0, trust_env=False) as client:
            health: dict[str, Any] = (await client.get(f"{url}/health")).json()
        if health["state"] not in ("ready", "degraded"):
            raise WrongUseError(f"{url}: the worker is {health['state']}")
        return health
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as fault:
        raise WrongUseError(f"{url}: no worker answers there ({fault or type(fault).__name__})") from None


@contextlib.asynccontextmanager
async def restored(bench: Bench) -> AsyncIterator[None]:
    """Whatever happens inside, the worker is left as it was found."""
    try:
        yield
    finally:
        if bench.admin_url is not None:
            await asyncio.shield(limit(bench, bench.most_seqs))


async def limit(bench: Bench, rows: int) -> None:
    """Let so many requests advance together. Raises WrongUseError if the admin port does not do so."""
    async with httpx.AsyncClient(timeout=10.0, trust_env=False) as client:
        try:
            told = await client.post(f"{bench.admin_url}/admin/limits", json={"max_num_seqs": rows})
            told.raise_for_status()
        except httpx.HTTPError as fault:
            raise WrongUseError(f"{bench.admin_url}: cannot set max_num_seqs to {rows} ({fault})") from None


async def attempt(bench: Bench, knobs: Knobs, calls: Sequence[Call], seconds: float) -> Trial:
    """Load the worker under these settings, and wait until it is idle again."""
    if bench.admin_url is not None:
        await limit(bench, knobs.max_num_seqs or bench.most_seqs)
    samples: list[Sample] = []
    async with _watching(bench.manner.url) as memory:
        await run([_wished(call, knobs) for call in calls], bench.manner, heard=samples.append)
    await _settle(bench.manner.url)
    found = figures(samples)
    return Trial(
        knobs=knobs,
        seconds=seconds,
        sent=len(samples),
        p50_ms=found.latency.percentiles_ms.get(50.0, inf),
        p95_ms=found.latency.percentiles_ms.get(95.0, inf),
        quality=sum(is_right(sample, bench.matches) for sample in samples) / max(1, len(samples)),
        memory_bytes=max(memory, default=0),
        errors=found.errors,
    )


def is_right(sample: Sample, matches: re.Pattern[str] | None = None) -> bool:
    """Whether a request got the answer that was expected of it: word for word, or valid for its schema, or matching."""
    if sample.outcome != OK:
        return False
    prompt = sample.call.prompt
    if prompt.expect is not None:
        return sample.text.strip() == prompt.expect.strip()
    if prompt.schema is not None:
        try:
            judge = jsonschema.validators.validator_for(prompt.schema)(prompt.schema)
            return bool(judge.is_valid(orjson.loads(sample.text)))
        except orjson.JSONDecodeError:
            return False
    return matches is not None and matches.fullmatch(sample.text) is not None


def can_be_judged(prompt: Prompt, matches: re.Pattern[str] | None) -> bool:
    """Whether anything tells a right answer to it from a wrong one."""
    return matches is not None or prompt.expect is not None or prompt.schema is not None


def _wished(call: Call, knobs: Knobs) -> Call:
    """The call with what is on trial; an anchor goes only with a text to hold on to."""
    edits = call.prompt.body.get("prediction") is not None
    wishes = {name: value for name, value in knobs.wishes.items() if edits or name != "anchor"}
    if not wishes:
        return call
    body = {**call.prompt.body, "diffusion": {**call.prompt.body.get("diffusion", {}), **wishes}}
    return replace(call, prompt=replace(call.prompt, body=body))


@contextlib.asynccontextmanager
async def _watching(url: str) -> AsyncIterator[list[int]]:
    seen: list[int] = []

    async def watch() -> None:
        async with httpx.AsyncClient(timeout=5.0, trust_env=False) as client:
            while True:
                with contextlib.suppress(httpx.HTTPError, ValueError, KeyError, TypeError):
                    seen.append(int((await client.get(f"{url}/health")).json()["memory"]["used_bytes"]))
                await asyncio.sleep(WATCH_EVERY_S)

    watcher = asyncio.create_task(watch())
    try:
        yield seen
    finally:
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)


async def _settle(url: str) -> None:
    """Wait until nothing runs or waits there, so that no trial pays for the one before."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SETTLES_S):
            while (health := await look(url))["running"] or health["waiting"]:  # noqa: ASYNC110 - another process's
                await asyncio.sleep(0.1)
