"""`twolane init`: writes a short policy for the user's own models, validates it, and probes both targets.

Exit codes: 0 if the policy was written, 2 for wrong use. An unreachable target is a warning, not an error: it may be
started later.
"""

import argparse
import asyncio
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from gateway.enums import Capability, Grade
from gateway.errors import PolicyError
from gateway.policy_files.load import parse
from gateway.routing.engine_profiles import ENGINES
from gateway.routing.policy import Policy
from gateway.types import Capabilities
from twolane.init.policy_text import WORKER, Lane, render
from twolane.init.probe import ProbeResult, probe_all
from twolane.process.errors import WRONG_USE
from twolane.process.flags import OneLineParser, WrongUseError

DEFAULT_FAST_URL: Final = "http://127.0.0.1:8001"
DEFAULT_WORKER_MODEL: Final = "diffusion"  # every worker serves its checkpoint under this alias as well
DEFAULT_QUALITY_ENGINE: Final = "openai"
SHOWN_MODELS: Final = 5
_UNKNOWN_MODEL: Final = "unknown"  # placeholder in the draft that is parsed before the servers are probed
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneOptions:
    """The command-line options of one lane. What is None is discovered by the probe."""

    name: str
    url: str
    model: str | None
    engine: str | None
    key_env: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The command line."""

    fast: LaneOptions
    quality: LaneOptions
    out: Path
    force: bool
    probe: bool
    timeout_s: float


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    try:
        _run(_parse(argv))
    except (WrongUseError, PolicyError) as cause:
        print(f"twolane init: {getattr(cause, 'message', None) or cause}", file=sys.stderr)
        return WRONG_USE
    return 0


def _run(options: Options) -> None:
    if options.out.exists() and not options.force:
        raise WrongUseError(
            f"{options.out} already exists; use --force to overwrite it or --out to choose another file"
        )
    lanes = (options.fast, options.quality)
    results = _probe(options) if options.probe else [ProbeResult(problem="was not probed (--no-probe)") for _ in lanes]
    fast, quality = (_complete(lane, result) for lane, result in zip(lanes, results, strict=True))
    text = render(fast, quality)
    policy = parse(text, os.environ, file=str(options.out))
    _write(options.out, text, force=options.force)
    print(f"Wrote {options.out}: valid; {len(policy.targets)} targets, {len(policy.rules)} routes.")
    for name, lane, result in zip(("fast", "quality"), (fast, quality), results, strict=True):
        for line in _report(name, lane, result):
            print(line)
    print(f"Next: twolane serve --policy {options.out}")


def _probe(options: Options) -> list[ProbeResult]:
    """Probe the targets of a draft policy, whose URLs the policy loader has validated and normalised."""
    lanes = [_complete(lane, ProbeResult(), draft=True) for lane in (options.fast, options.quality)]
    policy: Policy = parse(render(*lanes), os.environ, file=str(options.out))
    targets = [policy.targets["fast"], policy.targets["quality"]]
    return asyncio.run(probe_all(targets, timeout_s=options.timeout_s))


def _complete(lane: LaneOptions, result: ProbeResult, *, draft: bool = False) -> Lane:
    """Add the discovered model and engine. Raises WrongUseError if the model is still unknown."""
    model = lane.model or (result.models[0] if len(result.models) == 1 else None)
    engine = lane.engine or (result.engine if result.engine in ENGINES else None) or DEFAULT_QUALITY_ENGINE
    if model is None and not draft:
        raise WrongUseError(f"--{lane.name}-model is required: {lane.url} {_why_no_model(result)}")
    return Lane(url=lane.url, model=model or _UNKNOWN_MODEL, engine=engine, key_env=lane.key_env)


def _why_no_model(result: ProbeResult) -> str:
    if result.problem is not None:
        return result.problem
    return f"serves {_some(result.models)}" if result.models else "lists no models"


def _some(models: Sequence[str]) -> str:
    more = f" and {len(models) - SHOWN_MODELS} more" if len(models) > SHOWN_MODELS else ""
    return ", ".join(models[:SHOWN_MODELS]) + more


def _write(out: Path, text: str, *, force: bool) -> None:
    try:
        with out.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except OSError as fault:
        raise WrongUseError(f"{out}: {fault.strerror}") from fault


def _report(name: str, lane: Lane, result: ProbeResult) -> list[str]:
    """Describe one target: its address, its capabilities, and warnings."""
    state = f", {result.state}" if result.state else ""
    lines = [f"{name + ':':<9}{lane.url}, model {lane.model}, engine {lane.engine}{state}"]
    warnings = [f"{lane.url} {result.problem}"] if result.problem else _mismatches(name, lane, result)
    if lane.key_env and not os.environ.get(lane.key_env):
        warnings.append(f"the environment variable {lane.key_env} is not set")
    # As the gateway sees them: a worker reports its capabilities; for other engines there is a profile.
    capabilities = result.capabilities if lane.engine == WORKER else ENGINES[lane.engine]
    if capabilities is not None:
        source = "reported by the worker" if lane.engine == WORKER else f"profile of {lane.engine}"
        lines.append(f"{'':<9}supports {_words(capabilities)} ({source})")
    return [*lines, *(f"{'':<9}warning: {warning}" for warning in warnings)]


def _mismatches(name: str, lane: Lane, result: ProbeResult) -> list[str]:
    warnings = []
    if lane.model not in result.models:
        warnings.append(f"model {lane.model} not found; available: {_some(result.models) or 'none'}")
    if lane.engine == WORKER and result.engine != WORKER:
        found = f"is served by {result.engine}" if result.engine else "is not a Twolane worker"
        warnings.append(f"{lane.url} {found}; set --{name}-engine")
    return warnings


def _words(capabilities: Capabilities) -> str:
    grades = {Capability.JSON_SCHEMA: capabilities.json_schema, Capability.TOOLS: capabilities.tools}
    grades[Capability.PREDICTION] = capabilities.prediction
    return ", ".join(
        f"{word} ({grades[word].replace('_', ' ')})" if grades.get(word, Grade.NONE) is not Grade.NONE else str(word)
        for word in Capability
        if word in capabilities.supported
    )


def _parse(argv: Sequence[str]) -> Options:
    parser = OneLineParser(
        prog="twolane init",
        description="Write a short policy for your own models, validate it, and probe both servers.",
        epilog="Example: twolane init --quality-url https://llm.example.com --quality-key-env QUALITY_API_KEY",
    )
    fast = parser.add_argument_group("fast lane", "a diffusion model")
    _add_lane(fast, "fast", url=DEFAULT_FAST_URL, engines=(WORKER, *ENGINES), engine=WORKER)
    quality = parser.add_argument_group("quality lane", "any OpenAI-compatible server")
    _add_lane(quality, "quality", url=None, engines=tuple(ENGINES), engine=None)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("twolane.yaml"),
        metavar="FILE",
        help="policy file to write (default: %(default)s)",
    )
    parser.add_argument("--force", action="store_true", help="overwrite an existing FILE")
    parser.add_argument("--no-probe", action="store_true", help="do not contact the servers")
    parser.add_argument(
        "--timeout", type=_seconds, default=5.0, metavar="S", help="probe timeout in seconds (default: %(default)s)"
    )
    read = parser.parse_args(argv)
    return Options(
        fast=_lane(read, "fast"),
        quality=_lane(read, "quality"),
        out=read.out,
        force=read.force,
        probe=not read.no_probe,
        timeout_s=read.timeout,
    )


def _add_lane(
    group: argparse._ArgumentGroup, name: str, *, url: str | None, engines: tuple[str, ...], engine: str | None
) -> None:
    base = "base URL, as for OpenAI's clients; /v1 is added if there is no path"
    if url is None:
        group.add_argument(f"--{name}-url", type=_url, required=True, metavar="URL", help=base)
    else:
        group.add_argument(f"--{name}-url", type=_url, default=url, metavar="URL", help=f"{base} (default: {url})")
    default = f"{DEFAULT_WORKER_MODEL} for a worker, else the only model listed" if engine else "the only model listed"
    group.add_argument(f"--{name}-model", metavar="ID", help=f"model ID (default: {default})")
    group.add_argument(
        f"--{name}-engine",
        choices=engines,
        default=engine,
        metavar="ENGINE",
        help=f"serving engine: {', '.join(engines)} (default: {engine or 'detected, else openai'})",
    )
    group.add_argument(
        f"--{name}-key-env", type=_variable, metavar="NAME", help="environment variable that holds the API key"
    )


def _lane(read: argparse.Namespace, name: str) -> LaneOptions:
    url, model, engine, key_env = (getattr(read, f"{name}_{what}") for what in ("url", "model", "engine", "key_env"))
    if model is None and engine == WORKER:
        model = DEFAULT_WORKER_MODEL
    return LaneOptions(name=name, url=url, model=model, engine=engine, key_env=key_env)


def _url(text: str) -> str:
    """Accept a base URL. Errors do not repeat it, because it may contain a password."""
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018 - reading it checks it
    except ValueError as wrong:
        raise argparse.ArgumentTypeError(f"not a URL: {wrong}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise argparse.ArgumentTypeError("expected http://HOST[:PORT][/PATH] or https://HOST[:PORT][/PATH]")
    if parts.username is not None or parts.query or parts.fragment:
        raise argparse.ArgumentTypeError("a base URL must not contain credentials, a query or a fragment")
    return text


def _variable(text: str) -> str:
    """Accept the name of an environment variable. Errors do not repeat it, because it may be a key."""
    if not _VARIABLE.fullmatch(text):
        raise argparse.ArgumentTypeError("expected the name of an environment variable, not the key itself")
    return text


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds (up to 600)")
    return value
