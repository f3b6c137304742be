"""The command line of simulation: `policy simulate`, `policy diff`, `policy suggest`. Prints, and calls nobody."""

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Console

from gateway.enums import Task
from gateway.errors import CannotStart
from gateway.policy_files.load import load
from gateway.simulation.latency_models import Behaviour, assumed, fit
from gateway.simulation.report import compare, report
from gateway.simulation.run import Setting, simulate
from gateway.simulation.simulated_upstreams import Spell
from gateway.simulation.suggest import suggest, written
from gateway.simulation.tables import show, show_difference
from gateway.simulation.traffic import read_log, read_trace

GOOD: Final = 0
FAILED: Final = 1


def add_verbs(verbs: Any) -> None:
    """Add the verbs to `twolane policy`; each sets `run`."""
    one = verbs.add_parser("simulate", help="play a trace through a policy in virtual time", description=__doc__)
    one.add_argument("policy", type=Path, metavar="POLICY")
    one.add_argument("trace", type=Path, metavar="TRACE", help=_TRACE)
    _add_setting(one)
    one.set_defaults(run=_simulate)
    two = verbs.add_parser("diff", help="play a trace through two policies and show what changes")
    two.add_argument("old", type=Path, metavar="OLD")
    two.add_argument("new", type=Path, metavar="NEW")
    two.add_argument("--trace", type=Path, required=True, metavar="TRACE", help=_TRACE)
    _add_setting(two)
    two.set_defaults(run=_diff)
    three = verbs.add_parser("suggest", help="print the policy with the times that a decision log speaks for")
    three.add_argument("log", type=Path, metavar="LOG.jsonl")
    three.add_argument("--policy", type=Path, required=True, help="the policy file whose routes the log names")
    three.set_defaults(run=_suggest)


_TRACE: Final = "a decision log (.jsonl), or a table with arrival_s,input_tokens,output_tokens"


def _add_setting(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--fit", type=Path, metavar="LOG.jsonl", help="learn latencies, faults and prices there (a log: from itself)")
    add("--latency", action="append", default=[], type=_latency, metavar="TARGET=MS[+MS_PER_TOKEN]",
        help="assume a median for what no log tells")  # fmt: skip
    add("--price", action="append", default=[], type=_price, metavar="TARGET=DOLLARS", help="for a million tokens")
    add("--slow", action="append", default=[], type=_slow, metavar="TARGET=FACTOR@FROM-TO",
        help="what if it were slower, from and to seconds after the trace's beginning")  # fmt: skip
    add("--down", action="append", default=[], type=_down, metavar="TARGET@FROM-TO", help="what if it were not there")
    add("--task", type=Task, choices=list(Task), help="of a table's rows that name none (chat)")
    add("--seed", type=int, default=0, help="other luck")
    add("--json", type=Path, metavar="FILE", help="write the figures there, too")


def _simulate(read: argparse.Namespace) -> int:
    policy = load(read.policy, os.environ)
    found = report(simulate(policy, _setting(read)))
    _write(read.json, found)
    show(found, _console())
    return GOOD


def _diff(read: argparse.Namespace) -> int:
    old, new = load(read.old, os.environ), load(read.new, os.environ)
    setting = _setting(read)
    found = compare(simulate(old, setting), simulate(new, setting))
    _write(read.json, found)
    show_difference(found, _console())
    return GOOD


def _suggest(read: argparse.Namespace) -> int:
    policy = load(read.policy, os.environ)
    found = suggest(read_log(read.log), policy)
    if not found:
        print(f"{read.log}: no route of {read.policy} has answers enough to tell a p95")
        return FAILED
    print(written(read.policy.read_text("utf-8"), os.environ, found, file=str(read.policy)), end="")
    return GOOD


def _setting(read: argparse.Namespace) -> Setting:
    """Raises CannotStart."""
    trace = read_trace(read.trace, task=read.task)
    log = read.fit or (read.trace if read.trace.suffix == ".jsonl" else None)
    behaviours: dict[str, Behaviour] = (fit(read_log(log)) if log else {}) | dict(read.latency)
    for target, dollars in read.price:
        if target not in behaviours:
            raise CannotStart(f"--price: nothing tells how long {target!r} takes")
        behaviours[target] = replace(behaviours[target], dollars_per_token=dollars)
    return Setting(trace=trace, behaviours=behaviours, spells=(*read.slow, *read.down), seed=read.seed)


def _console() -> Console:
    """A file or a pipe has no width of its own."""
    return Console() if sys.stdout.isatty() else Console(width=120)


def _write(file: Path | None, found: Any) -> None:
    if file is None:
        return
    try:
        file.write_bytes(as_json(found))
    except OSError as fault:
        raise CannotStart(f"{file}: {fault.strerror}") from fault


def as_json(found: Any) -> bytes:
    """A report or a difference, indented."""
    return msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n"


def _latency(text: str) -> tuple[str, Behaviour]:
    target, given = _named(text, "TARGET=MS[+MS_PER_TOKEN]")
    base, _, more = given.partition("+")
    return target, assumed(_number(base, text, above=0), _number(more, text) if more else 0.0)


def _price(text: str) -> tuple[str, float]:
    target, dollars = _named(text, "TARGET=DOLLARS")
    return target, _number(dollars, text) / 1e6


def _slow(text: str) -> Spell:
    target, given = _named(text, "TARGET=FACTOR@FROM-TO")
    factor, _, span = given.partition("@")
    from_s, to_s = _span(span, text)
    return Spell(target=target, from_s=from_s, to_s=to_s, slower=_number(factor, text, above=0))


def _down(text: str) -> Spell:
    target, _, span = text.partition("@")
    from_s, to_s = _span(span, text)
    return Spell(target=target, from_s=from_s, to_s=to_s)


def _named(text: str, shape: str) -> tuple[str, str]:
    target, equals, given = text.partition("=")
    if not target or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not {shape}")
    return target, given


def _span(span: str, text: str) -> tuple[float, float]:
    from_s, _, to_s = span.partition("-")
    return _number(from_s, text), _number(to_s, text, above=0)


def _number(number: str, text: str, *, above: float | None = None) -> float:
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if not (0 <= value < float("inf")) or (above is not None and value <= above):
        raise argparse.ArgumentTypeError(f"{number!r} in {text!r} is no number that fits there")
    return value
