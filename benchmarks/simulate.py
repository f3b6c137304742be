"""Simulation speed: `python -m benchmarks.simulate TRACE [--check] [--json FILE]`.

TRACE is a CSV table of arrivals and sizes, or a decision log. It is replayed through the default policy, once
undisturbed and once with a fast lane that is five times slower in the middle half; the lower rate counts. Rates are
requests per second of CPU time, so that other work on the machine does not count.
"""

import argparse
import json
import os
import time
from pathlib import Path

from gateway.enums import Task
from gateway.policy_files.load import load
from gateway.simulation.latency_models import assumed
from gateway.simulation.run import Scenario, simulate
from gateway.simulation.simulated_upstreams import Disruption
from gateway.simulation.traffic import read_trace

POLICY = Path(__file__).parents[1] / "policies" / "default.yaml"
BAR = 3000.0  # requests per second on one core
MODELS = {"fast": assumed(200, 2), "careful": assumed(400, 5), "quality": assumed(400, 10)}


def main() -> int:
    """Command line; returns 1 if `--check` finds a rate below the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trace", type=Path, metavar="TRACE")
    parser.add_argument("--check", action="store_true", help=f"exit 1 below {BAR:g} requests/s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rates to a JSON file")
    options = parser.parse_args()
    rates = {name: measure(options.trace, slowdown) for name, slowdown in (("steady", None), ("slowed", 5.0))}
    for name, rate in rates.items():
        print(f"{name}: {rate:.0f} requests/s")
    if options.json:
        options.json.write_text(json.dumps(rates) + "\n")
    return 1 if options.check and min(rates.values()) < BAR else 0


def measure(file: Path, slowdown: float | None) -> float:
    """Requests per second of CPU time, without reading the trace."""
    trace, policy = read_trace(file, task=Task.EDIT), load(POLICY, os.environ)
    last_s = trace.arrivals[-1].at_s if trace.arrivals else 0.0
    disruption = Disruption(target="careful", from_s=last_s / 4, to_s=last_s * 3 / 4, slowdown=slowdown or 1.0)
    scenario = Scenario(trace=trace, models=MODELS, disruptions=(disruption,))
    began_s = time.process_time()
    run = simulate(policy, scenario)
    return len(run.completed) / (time.process_time() - began_s)


if __name__ == "__main__":
    raise SystemExit(main())
