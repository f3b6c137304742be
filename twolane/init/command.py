"""`twolane init`: writes a short policy for the user's own models, checks it, and asks both targets what they can do.

Exit codes: 0 written, 2 not: wrong use, or a policy that the loader refuses. A target that does not answer is told, and
the policy is written all the same: it may be started later.
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
from twolane.init.probe import Finding, probe_all
from twolane.process.flags import WRONG_USE, OneLineParser, WrongUseError

DEFAULT_FAST_URL: Final = "http://127.0.0.1:8001"
DEFAULT_WORKER_MODEL: Final = "diffusion"  # every worker serves its checkpoint under this alias as well
DEFAULT_QUALITY_ENGINE: Final = "openai"
SHOWN_MODELS: Final = 5
_UNKNOWN_MODEL: Final = "unknown"  # stands in the draft that is parsed before the server was asked
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneOptions:
    """What the command line says of one lane. The server is asked for what is None."""

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
        raise WrongUseError(f"{options.out} exists: choose another file with --out, or overwrite it with --force")
    lanes = (options.fast, options.quality)
    findings = _probe(options) if options.probe else [Finding(problem="was not asked (--no-probe)") for _ in lanes]
    fast, quality = (_complete(lane, finding) for lane, finding in zip(lanes, findings, strict=True))
    text = render(fast, quality)
    policy = parse(text, os.environ, file=str(options.out))
    _write(options.out, text, force=options.force)
    print(f"Wrote {options.out}: {len(policy.targets)} targets, {len(policy.rules)} routes; the policy is valid.")
    for name, lane, finding in zip(("fast", "quality"), (fast, quality), findings, strict=True):
        for line in _report(name, lane, finding):
            print(line)
    print(f"Next: twolane serve --policy {options.out}")


def _probe(options: Options) -> list[Finding]:
    """Ask the targets of a draft: the real loader has read their URLs."""
    lanes = [_complete(lane, Finding(), draft=True) for lane in (options.fast, options.quality)]
    policy: Policy = parse(render(*lanes), os.environ, file=str(options.out))
    targets = [policy.targets["fast"], policy.targets["quality"]]
    return asyncio.run(probe_all(targets, timeout_s=options.timeout_s))


def _complete(lane: LaneOptions, finding: Finding, *, draft: bool = False) -> Lane:
    """Fill in what the server told. Raises WrongUseError if the model is not known then."""
    model = lane.model or (finding.models[0] if len(finding.models) == 1 else None)
    engine = lane.engine or (finding.engine if finding.engine in ENGINES else None) or DEFAULT_QUALITY_ENGINE
    if model is None and not draft:
        raise WrongUseError(f"--{lane.name}-model is needed: {lane.url} {_why_no_model(finding)}")
    return Lane(url=lane.url, model=model or _UNKNOWN_MODEL, engine=engine, key_env=lane.key_env)


def _why_no_model(finding: Finding) -> str:
    if finding.problem is not None:
        return finding.problem
    return f"serves {_some(finding.models)}" if finding.models else "lists no models"


def _some(models: Sequence[str]) -> str:
    more = f" and {len(models) - SHOWN_MODELS} more" if len(models) > SHOWN_MODELS else ""
    return ", ".join(models[:SHOWN_MODELS]) + more


def _write(out: Path, text: str, *, force: bool) -> None:
    try:
        with out.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except OSError as fault:
        raise WrongUseError(f"{out}: {fault.strerror}") from fault


def _report(name: str, lane: Lane, finding: Finding) -> list[str]:
    """What is known of a target: who it is, what it can do, and what looks wrong."""
    state = f", {finding.state}" if finding.state else ""
    lines = [f"{name + ':':<9}{lane.url}, model {lane.model}, engine {lane.engine}{state}"]
    warnings = [f"{lane.url} {finding.problem}"] if finding.problem else _mismatches(name, lane, finding)
    if lane.key_env and not os.environ.get(lane.key_env):
        warnings.append(f"the variable {lane.key_env} is not set here")
    # As the gateway sees it: a worker publishes what it can do, for others the policy names the engine.
    capabilities = finding.capabilities if lane.engine == WORKER else ENGINES[lane.engine]
    if capabilities is not None:
        source = "its own list" if lane.engine == WORKER else f"the profile of {lane.engine}"
        lines.append(f"{'':<9}can: {_words(capabilities)} ({source})")
    return [*lines, *(f"{'':<9}warning: {warning}" for warning in warnings)]


def _mismatches(name: str, lane: Lane, finding: Finding) -> list[str]:
    warnings = []
    if lane.model not in finding.models:
        warnings.append(f"the model {lane.model} is not in its list: {_some(finding.models) or 'which is empty'}")
    if lane.engine == WORKER and finding.engine != WORKER:
        said = f"looks like {finding.engine}" if finding.engine else "does not look like a Twolane worker"
        warnings.append(f"{lane.url} {said}: choose its engine with --{name}-engine")
    return warnings


def _words(capabilities: Capabilities) -> str:
    grades = {Capability.JSON_SCHEMA: capabilities.json_schema, Capability.TOOLS: capabilities.tools}
    grades[Capability.PREDICTION] = capabilities.prediction
    return ", ".join(
        f"{word} ({grades[word].replace('_', ' ')})" if grades.get(word, Grade.NONE) is not Grade.NONE else str(word)
        for word in Capability
        if word in capabilities.words
    )


def _parse(argv: Sequence[str]) -> Options:
    parser = OneLineParser(
        prog="twolane init",
        description="Write a short policy for your own models, check it, and ask both servers what they can do.",
        epilog="Example: twolane init --quality-url https://llm.example.com --quality-key-env QUALITY_API_KEY",
    )
    fast = parser.add_argument_group("fast lane", "a diffusion model")
    _add_lane(fast, "fast", url=DEFAULT_FAST_URL, engines=(WORKER, *ENGINES), engine=WORKER)
    quality = parser.add_argument_group("quality lane", "any OpenAI-compatible server")
    _add_lane(quality, "quality", url=None, engines=tuple(ENGINES), engine=None)
    parser.add_argument("--out", type=Path, default=Path("twolane.yaml"), metavar="FILE", help="default: %(default)s")
    parser.add_argument("--force", action="store_true", help="overwrite FILE")
    parser.add_argument("--no-probe", action="store_true", help="send nothing to the servers")
    parser.add_argument("--timeout", type=_seconds, default=5.0, metavar="S", help="of a probe (default: %(default)s)")
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
    base = "base URL of the server, with or without /v1"
    if url is None:
        group.add_argument(f"--{name}-url", type=_url, required=True, metavar="URL", help=base)
    else:
        group.add_argument(f"--{name}-url", type=_url, default=url, metavar="URL", help=f"{base} (default: {url})")
    default = f"default of a worker: {DEFAULT_WORKER_MODEL}; else " if engine == WORKER else "default: "
    group.add_argument(f"--{name}-model", metavar="ID", help=f"its model ({default}the only one that it lists)")
    group.add_argument(
        f"--{name}-engine",
        choices=engines,
        default=engine,
        metavar="ENGINE",
        help=f"what serves it: {', '.join(engines)} (default: {engine or 'what its list of models says, else openai'})",
    )
    group.add_argument(
        f"--{name}-key-env", type=_variable, metavar="NAME", help="environment variable that holds its key"
    )


def _lane(read: argparse.Namespace, name: str) -> LaneOptions:
    url, model, engine, key_env = (getattr(read, f"{name}_{what}") for what in ("url", "model", "engine", "key_env"))
    if model is None and engine == WORKER:
        model = DEFAULT_WORKER_MODEL
    return LaneOptions(name=name, url=url, model=model, engine=engine, key_env=key_env)


def _url(text: str) -> str:
    """Accept a base URL. A complaint does not repeat it: it may hold a password."""
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018 - reading it checks it
    except ValueError as wrong:
        raise argparse.ArgumentTypeError(f"not a URL: {wrong}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise argparse.ArgumentTypeError("expected http://HOST[:PORT][/PATH] or https://HOST[:PORT][/PATH]")
    if parts.username is not None or parts.query or parts.fragment:
        raise argparse.ArgumentTypeError("a base URL has no user, query or fragment")
    return text


def _variable(text: str) -> str:
    """Accept the name of a variable. A complaint does not repeat it: it may be a key."""
    if not _VARIABLE.fullmatch(text):
        raise argparse.ArgumentTypeError("expected the name of an environment variable, never a key itself")
    return text


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds (up to 600)")
    return value
