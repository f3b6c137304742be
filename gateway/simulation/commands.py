"""The simulation commands: `policy simulate`, `policy diff`, `policy suggest`. No target is called."""

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
from gateway.simulation.latency_models import TargetModel, assumed, fit
from gateway.simulation.report import compare, report
from gateway.simulation.run import Scenario, simulate
from gateway.simulation.simulated_upstreams import Disruption
from gateway.simulation.suggest import MIN_RESPONSES, render, suggest
from gateway.simulation.tables import print_difference, print_report
from gateway.simulation.traffic import read_log, read_trace

SUCCESS: Final = 0
FAILURE: Final = 1


def add_verbs(verbs: Any) -> None:
    """Add the commands to `twolane policy`; each sets `run`."""
    one = verbs.add_parser(
        "simulate",
        help="replay a trace through a policy in virtual time",
        description="Replay a trace through a policy in virtual time and print latencies, fallbacks and lane changes.",
    )
    one.add_argument("policy", type=Path, metavar="POLICY", help="policy file")
    one.add_argument("trace", type=Path, metavar="TRACE", help=_TRACE)
    _add_scenario(one)
    one.set_defaults(run=_simulate)
    two = verbs.add_parser(
        "diff",
        help="replay a trace through two policies and show what changes",
        description="Replay a trace through two policies and print the requests that move and both sets of figures.",
    )
    two.add_argument("old", type=Path, metavar="OLD", help="current policy file")
    two.add_argument("new", type=Path, metavar="NEW", help="changed policy file")
    two.add_argument("--trace", type=Path, required=True, metavar="TRACE", help=_TRACE)
    _add_scenario(two)
    two.set_defaults(run=_diff)
    three = verbs.add_parser(
        "suggest",
        help="suggest SLOs and timeouts from a decision log",
        description="Print the policy with SLOs, deadlines and hedges that fit the latencies of a decision log.",
    )
    three.add_argument("log", type=Path, metavar="LOG.jsonl", help="decision log")
    three.add_argument("--policy", type=Path, required=True, metavar="FILE", help="policy file with the logged routes")
    three.set_defaults(run=_suggest)


_TRACE: Final = "decision log (.jsonl) or CSV table with the columns arrival_s, input_tokens and output_tokens"


def _add_scenario(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    # fmt: off
    add("--fit", type=Path, metavar="LOG.jsonl",
        help="decision log to fit latencies, failures and prices to (default: the trace, if it is a decision log)")
    add("--latency", action="append", default=[], type=_latency, metavar="TARGET=MS[+MS_PER_TOKEN]",
        help="latency model for targets missing from the log: median, plus time per output token; repeatable")
    add("--price", action="append", default=[], type=_price, metavar="TARGET=DOLLARS",
        help="price per million tokens; repeatable")
    add("--slow", action="append", default=[], type=_slow, metavar="TARGET=FACTOR@FROM-TO",
        help="simulate a slowdown; FROM and TO in seconds since the start of the trace; repeatable")
    add("--down", action="append", default=[], type=_down, metavar="TARGET@FROM-TO",
        help="simulate an outage; repeatable")
    add("--task", type=Task, choices=list(Task), metavar="TASK",
        help=f"default task for rows without one (default: chat); one of {', '.join(Task)}")
    add("--seed", type=int, default=0, metavar="N", help="random seed (default: 0)")
    add("--json", type=Path, metavar="FILE", help="write the figures to a JSON file")
    # fmt: on


def _simulate(options: argparse.Namespace) -> int:
    policy = load(options.policy, os.environ)
    result = report(simulate(policy, _scenario(options)))
    _write(options.json, result)
    print_report(result, _console())
    return SUCCESS


def _diff(options: argparse.Namespace) -> int:
    old, new = load(options.old, os.environ), load(options.new, os.environ)
    scenario = _scenario(options)
    result = compare(simulate(old, scenario), simulate(new, scenario))
    _write(options.json, result)
    print_difference(result, _console())
    return SUCCESS


def _suggest(options: argparse.Namespace) -> int:
    policy = load(options.policy, os.environ)
    result = suggest(read_log(options.log), policy)
    if not result:
        needed = f"at least {MIN_RESPONSES} responses"
        print(f"{options.log}: no route of {options.policy} has enough responses to estimate a p95 ({needed})")
        return FAILURE
    print(render(options.policy.read_text("utf-8"), os.environ, result, file=str(options.policy)), end="")
    return SUCCESS


def _scenario(options: argparse.Namespace) -> Scenario:
    """Raises CannotStart."""
    trace = read_trace(options.trace, task=options.task)
    log = options.fit or (options.trace if options.trace.suffix == ".jsonl" else None)
    models: dict[str, TargetModel] = (fit(read_log(log)) if log else {}) | dict(options.latency)
    for target, dollars in options.price:
        if target not in models:
            raise CannotStart(f"--price: no latency model for target {target!r}; add --fit or --latency")
        models[target] = replace(models[target], dollars_per_token=dollars)
    return Scenario(trace=trace, models=models, disruptions=(*options.slow, *options.down), seed=options.seed)


def _console() -> Console:
    """Files and pipes have no width of their own."""
    return Console() if sys.stdout.isatty() else Console(width=120)


def _write(file: Path | None, result: Any) -> None:
    if file is None:
        return
    try:
        file.write_bytes(as_json(result))
    except OSError as fault:
        raise CannotStart(f"{file}: {fault.strerror}") from fault


def as_json(result: Any) -> bytes:
    """A report or a difference as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n"


def _latency(text: str) -> tuple[str, TargetModel]:
    target, value = _named(text, "TARGET=MS[+MS_PER_TOKEN]")
    base, _, more = value.partition("+")
    return target, assumed(_number(base, text, above=0), _number(more, text) if more else 0.0)


def _price(text: str) -> tuple[str, float]:
    target, dollars = _named(text, "TARGET=DOLLARS")
    return target, _number(dollars, text) / 1e6


def _slow(text: str) -> Disruption:
    target, value = _named(text, "TARGET=FACTOR@FROM-TO")
    factor, _, span = value.partition("@")
    from_s, to_s = _span(span, text)
    return Disruption(target=target, from_s=from_s, to_s=to_s, slowdown=_number(factor, text, above=0))


def _down(text: str) -> Disruption:
    target, _, span = text.partition("@")
    from_s, to_s = _span(span, text)
    return Disruption(target=target, from_s=from_s, to_s=to_s)


def _named(text: str, shape: str) -> tuple[str, str]:
    target, equals, value = text.partition("=")
    if not target or not equals:
        raise argparse.ArgumentTypeError(f"invalid value {text!r}; expected {shape}")
    return target, value


def _span(span: str, text: str) -> tuple[float, float]:
    from_s, _, to_s = span.partition("-")
    return _number(from_s, text), _number(to_s, text, above=0)


def _number(number: str, text: str, *, above: float | None = None) -> float:
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if not (0 <= value < float("inf")) or (above is not None and value <= above):
        expected = "a non-negative number" if above is None else f"a number above {above:g}"
        raise argparse.ArgumentTypeError(f"invalid number {number!r} in {text!r}; expected {expected}")
    return value
