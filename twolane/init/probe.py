"""Asks a target what it serves: its list of models and, of a worker, its health.

The key of a target is sent to that target's URL only: redirects are not followed, proxies are not used.
"""

import asyncio
import os
from dataclasses import dataclass, replace
from typing import Final

import aiohttp
import msgspec

from gateway.enums import Kind
from gateway.types import Capabilities, Target
from gateway.upstreams.health import read_models

MAX_BODY_BYTES: Final = 4 << 20
# What servers call themselves in `owned_by`, and the engine that a policy calls them.
_ENGINES: Final = {"vllm": "vllm", "sglang": "sglang", "llamacpp": "llama_cpp", "twolane": "worker"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a target said. `problem` is None exactly if it listed its models."""

    problem: str | None = None
    models: tuple[str, ...] = ()
    engine: str | None = None  # as far as the listing tells
    capabilities: Capabilities | None = None  # of the target's model, where the server publishes them
    state: str | None = None  # of a worker


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


async def probe_all(targets: list[Target], *, timeout_s: float) -> list[Finding]:
    """Ask all targets at once; one after `timeout_s` without an answer is a finding like any other."""
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    async with aiohttp.ClientSession(
        timeout=timeout, trust_env=False, cookie_jar=aiohttp.DummyCookieJar(), raise_for_status=False
    ) as session:
        return list(await asyncio.gather(*(_probe(session, target, timeout_s) for target in targets)))


async def _probe(session: aiohttp.ClientSession, target: Target, timeout_s: float) -> Finding:
    key = os.environ.get(target.key_env, "") if target.key_env else ""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        status, body = await _get(session, f"{target.url}/v1/models", headers)
        problem = _refusal(status, target, has_key=bool(key))
        if problem is not None:
            return Finding(problem=problem)
        finding = _read_listing(body, target)
        if finding.problem is None and target.kind is Kind.WORKER:
            _, health = await _get(session, f"{target.url}/health", headers)  # 503 has a state, too
            return replace(finding, state=_read_state(health))
    except TimeoutError:
        return Finding(problem=f"did not answer within {timeout_s:g} s")
    except (aiohttp.ClientError, OSError, ValueError) as fault:
        return Finding(problem=f"cannot be reached: {_cause(fault)}")
    return finding


async def _get(session: aiohttp.ClientSession, url: str, headers: dict[str, str]) -> tuple[int, bytes]:
    async with session.get(url, headers=headers, allow_redirects=False) as response:
        body = bytearray()
        async for part in response.content.iter_any():
            body += part
            if len(body) > MAX_BODY_BYTES:
                raise ValueError("its list of models is too large")
        return response.status, bytes(body)


def _refusal(status: int, target: Target, *, has_key: bool) -> str | None:
    if status == 200:
        return None
    if status in (401, 403):
        flag = f"--{target.name}-key-env"
        if has_key:
            return f"refuses the key in {target.key_env} (HTTP {status})"
        return f"wants a key (HTTP {status}): " + (
            f"{target.key_env} is not set" if target.key_env else f"name the variable that holds it with {flag}"
        )
    if 300 <= status < 400:
        return f"redirects to another address (HTTP {status}), which is not followed"
    return f"does not list its models: /v1/models answers HTTP {status}"


def _read_listing(body: bytes, target: Target) -> Finding:
    try:
        listing = msgspec.json.decode(body, type=_Listing)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Finding(problem="does not list its models: /v1/models is not in the form of OpenAI's API")
    owners = {model.owned_by for model in listing.data}
    engines = {_ENGINES[owner] for owner in owners if owner in _ENGINES}
    aliases = [alias for model in listing.data if model.twolane for alias in model.twolane.aliases]
    return Finding(
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
