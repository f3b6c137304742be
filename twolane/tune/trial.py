"""One trial: a load of the user's prompts on a live worker, with the correctness of responses and peak memory.

Uses the worker's API, its /health and its admin port.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Final

import httpx
import jsonschema
import orjson

from twolane.bench.figures import figures
from twolane.bench.load import OK, LoadOptions, Sample, run
from twolane.bench.plan import Call, Prompt
from twolane.process.flags import WrongUseError
from twolane.tune.plan import Parameters, Trial

MEMORY_INTERVAL_S: Final = 0.5
IDLE_TIMEOUT_S: Final = 20.0  # for requests of the previous trial that are still running


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedWorker:
    """The worker to load. Without `admin_url` its max_num_seqs is not changed. `matches` describes a correct response
    for prompts that have neither `expect` nor a schema."""

    load: LoadOptions
    admin_url: str | None
    max_num_seqs: int
    matches: re.Pattern[str] | None = None


async def read_health(url: str) -> dict[str, Any]:
    """Return the worker's health. Raises WrongUseError if no worker is serving there."""
    try:
        async with httpx.AsyncClient(timeout=10.0, trust_env=False) as client:
            health: dict[str, Any] = (await client.get(f"{url}/health")).json()
        if health["state"] not in ("ready", "degraded"):
            raise WrongUseError(f"{url}: the worker is {health['state']}")
        return health
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as cause:
        raise WrongUseError(f"{url}: no worker responds ({cause or type(cause).__name__})") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What the worker says about its model: the canvas length, which a request cannot exceed (None: not said), and the
    decoding modes beside diffusion."""

    canvas_length: int | None = None
    modes: tuple[str, ...] = ()


async def read_offer(load: LoadOptions) -> Offer:
    """Return the worker's offer, as far as it is said. Modes are only tried from a model name in diffusion mode."""
    headers = {"Authorization": f"Bearer {load.key}"} if load.key else {}
    try:
        async with httpx.AsyncClient(timeout=10.0, trust_env=False, headers=headers) as client:
            models = (await client.get(f"{load.url}/v1/models")).json()["data"]
            found = [model["twolane"] for model in models]
            names = {name for model in models for name in (model["id"], *model["twolane"]["aliases"])}
            modes = tuple(each["decoding_mode"] for each in found)
            offered = tuple(mode for mode in modes if f"{load.model}:{mode}" in names)
            return Offer(canvas_length=int(found[0]["canvas_length"]), modes=offered)
    except (httpx.HTTPError, ValueError, KeyError, TypeError, IndexError):
        return Offer()


@contextlib.asynccontextmanager
async def restored(worker: TunedWorker) -> AsyncIterator[None]:
    """Restore the worker's max_num_seqs on exit, also after an error."""
    try:
        yield
    finally:
        if worker.admin_url is not None:
            await asyncio.shield(set_max_num_seqs(worker, worker.max_num_seqs))


async def set_max_num_seqs(worker: TunedWorker, value: int) -> None:
    """Change the limit through the admin port. Raises WrongUseError if that fails."""
    async with httpx.AsyncClient(timeout=10.0, trust_env=False) as client:
        try:
            response = await client.post(f"{worker.admin_url}/admin/limits", json={"max_num_seqs": value})
            response.raise_for_status()
        except httpx.HTTPError as cause:
            raise WrongUseError(f"{worker.admin_url}: cannot set max_num_seqs to {value} ({cause})") from None


async def run_trial(worker: TunedWorker, parameters: Parameters, calls: Sequence[Call], seconds: float) -> Trial:
    """Load the worker with these parameters, and wait until it is idle again."""
    if worker.admin_url is not None:
        await set_max_num_seqs(worker, parameters.max_num_seqs or worker.max_num_seqs)
    samples: list[Sample] = []
    async with _memory_samples(worker.load.url) as memory:
        changed = [_with_parameters(call, parameters, worker.load.model) for call in calls]
        await run(changed, worker.load, on_result=samples.append)
    await _wait_until_idle(worker.load.url)
    found = figures(samples)
    return Trial(
        parameters=parameters,
        seconds=seconds,
        sent=len(samples),
        p50_ms=found.latency.percentiles_ms.get(50.0, inf),
        p95_ms=found.latency.percentiles_ms.get(95.0, inf),
        quality=sum(is_correct(sample, worker.matches) for sample in samples) / max(1, len(samples)),
        memory_bytes=max(memory, default=0),
        errors=found.errors,
        judged=tuple(
            (sample.confidence, is_correct(sample, worker.matches))
            for sample in samples
            if sample.outcome == OK and sample.confidence is not None
        ),
    )


def is_correct(sample: Sample, matches: re.Pattern[str] | None = None) -> bool:
    """Return whether a response equals `expect`, or is valid for its schema, or matches the pattern, in this order."""
    if sample.outcome != OK:
        return False
    prompt = sample.call.prompt
    if prompt.expect is not None:
        return sample.text.strip() == prompt.expect.strip()
    if prompt.schema is not None:
        try:
            validator = jsonschema.validators.validator_for(prompt.schema)(prompt.schema)
            return bool(validator.is_valid(orjson.loads(sample.text)))
        except orjson.JSONDecodeError:
            return False
    return matches is not None and matches.fullmatch(sample.text) is not None


def has_correct_response(prompt: Prompt, matches: re.Pattern[str] | None) -> bool:
    """Return whether a correct response to this prompt is defined."""
    return matches is not None or prompt.expect is not None or prompt.schema is not None


def _with_parameters(call: Call, parameters: Parameters, model: str) -> Call:
    """Return the call with the parameters of the trial; `anchor` only applies to requests with a prediction."""
    if parameters.decoding is not None:
        return replace(
            call, prompt=replace(call.prompt, body=_body_in_mode(call.prompt.body, parameters.decoding, model))
        )
    edits = call.prompt.body.get("prediction") is not None
    params = {name: value for name, value in parameters.request_params.items() if edits or name != "anchor"}
    if not params:
        return call
    body = {**call.prompt.body, "diffusion": {**(call.prompt.body.get("diffusion") or {}), **params}}
    return replace(call, prompt=replace(call.prompt, body=body))


def _body_in_mode(body: Mapping[str, Any], decoding: str, model: str) -> dict[str, Any]:
    """The body in a decoding mode that does not denoise, without what the worker refuses there, as the gateway sends
    it: of `diffusion` the deadline stays, and autoregressive mode takes no prediction."""
    refused = ("diffusion", "prediction") if decoding == "autoregressive" else ("diffusion",)
    kept = {name: value for name, value in body.items() if name not in refused}
    deadline = {name: value for name, value in (body.get("diffusion") or {}).items() if name == "deadline_ms"}
    return {**kept, **({"diffusion": deadline} if deadline else {}), "model": f"{model}:{decoding}"}


@contextlib.asynccontextmanager
async def _memory_samples(url: str) -> AsyncIterator[list[int]]:
    used: list[int] = []

    async def watch() -> None:
        async with httpx.AsyncClient(timeout=5.0, trust_env=False) as client:
            while True:
                with contextlib.suppress(httpx.HTTPError, ValueError, KeyError, TypeError):
                    used.append(int((await client.get(f"{url}/health")).json()["memory"]["used_bytes"]))
                await asyncio.sleep(MEMORY_INTERVAL_S)

    watcher = asyncio.create_task(watch())
    try:
        yield used
    finally:
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)


async def _wait_until_idle(url: str) -> None:
    """Wait until the worker is idle, so that a trial is not slowed down by the previous one."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(IDLE_TIMEOUT_S):
            while (health := await read_health(url))["running"] or health["waiting"]:  # noqa: ASYNC110 - state of another process
                await asyncio.sleep(0.1)
