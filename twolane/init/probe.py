"""Probes a target: lists its models and reads the health of a worker.

An API key is sent to the URL of its own target only: redirects are not followed and proxies are not used.
"""

import asyncio
import os
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import msgspec

from gateway.enums import Kind
from gateway.types import Capabilities, Target
from gateway.upstreams.health import read_models
from gateway.upstreams.keys import read_target_key

MAX_BODY_BYTES: Final = 4 << 20
# `owned_by` in the list of models, and the name of that engine in a policy.
_ENGINES: Final = {"vllm": "vllm", "sglang": "sglang", "llamacpp": "llama_cpp", "twolane": "worker"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """The outcome of one probe. `problem` is None exactly if the target listed its models."""

    problem: str | None = None
    models: tuple[str, ...] = ()
    engine: str | None = None  # None if `owned_by` names no known engine
    capabilities: Capabilities | None = None  # of the target's model, if the server reports them
    state: str | None = None  # of a worker: ready, loading, ...


class _Extension(msgspec.Struct):
    aliases: list[str] = []


class _Model(msgspec.Struct):
    id: str
    owned_by: str | None = None
    twolane: _Extension | None = None


class _Listing(msgspec.Struct):
    data: list[_Model]


class _Health(msgspec.Struct):
    state: str = ""


async def probe_all(targets: list[Target], *, timeout_s: float) -> list[ProbeResult]:
    """Probe all targets concurrently, each within `timeout_s`. Raises nothing: every failure is a ProbeResult."""
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    async with aiohttp.ClientSession(
        timeout=timeout, trust_env=False, cookie_jar=aiohttp.DummyCookieJar(), raise_for_status=False
    ) as session:
        return list(await asyncio.gather(*(_probe(session, target, timeout_s) for target in targets)))


async def _probe(session: aiohttp.ClientSession, target: Target, timeout_s: float) -> ProbeResult:
    key = read_target_key(target, os.environ).value
    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        status, body = await _get(session, _models_url(target), headers)
        problem = _refusal(status, target, has_key=bool(key))
        if problem is not None:
            return ProbeResult(problem=problem)
        result = _read_listing(body, target)
        if result.problem is None and target.kind is Kind.WORKER:
            _, health = await _get(session, f"{target.url}/health", headers)  # a 503 carries the state as well
            return replace(result, state=_read_state(health))
    except TimeoutError:
        return ProbeResult(problem=f"did not answer within {timeout_s:g} s")
    except (aiohttp.ClientError, OSError, ValueError) as fault:
        return ProbeResult(problem=f"cannot be reached: {_cause(fault)}")
    return result


def _models_url(target: Target) -> str:
    """Next to the chat completions, as OpenAI's clients find it."""
    path, question, query = target.chat_url.partition("?")
    return path.rstrip("/").removesuffix("/chat/completions") + "/models" + question + query


async def _get(session: aiohttp.ClientSession, url: str, headers: dict[str, str]) -> tuple[int, bytes]:
    async with session.get(url, headers=headers, allow_redirects=False) as response:
        body = bytearray()
        async for part in response.content.iter_any():
            body += part
            if len(body) > MAX_BODY_BYTES:
                raise ValueError("its response is too large")
        return response.status, bytes(body)


def _refusal(status: int, target: Target, *, has_key: bool) -> str | None:
    if status == 200:
        return None
    if status in (401, 403):
        if has_key:
            return f"rejected the API key in {target.key_env} (HTTP {status})"
        remedy = f"{target.key_env} is not set" if target.key_env else f"set --{target.name}-key-env"
        return f"requires an API key (HTTP {status}): {remedy}"
    if 300 <= status < 400:
        return f"redirects (HTTP {status}); redirects are not followed"
    return f"does not list its models: {urlsplit(_models_url(target)).path} returned HTTP {status}"


def _read_listing(body: bytes, target: Target) -> ProbeResult:
    try:
        listing = msgspec.json.decode(body, type=_Listing)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ProbeResult(
            problem=f"does not list its models: the response of {urlsplit(_models_url(target)).path} is invalid"
        )
    owners = {model.owned_by for model in listing.data}
    engines = {_ENGINES[owner] for owner in owners if owner in _ENGINES}
    aliases = [alias for model in listing.data if model.twolane for alias in model.twolane.aliases]
    return ProbeResult(
        models=(*(model.id for model in listing.data), *aliases),
        engine=engines.pop() if len(engines) == 1 else None,
        capabilities=read_models(body).get(target.model),
    )


def _read_state(body: bytes) -> str | None:
    try:
        return msgspec.json.decode(body, type=_Health).state or None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _cause(fault: Exception) -> str:
    error = getattr(fault, "os_error", fault)
    number = getattr(error, "errno", None)
    if isinstance(number, int) and number > 0:
        return os.strerror(number)
    return getattr(error, "strerror", None) or str(fault) or type(fault).__name__
