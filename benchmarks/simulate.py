"""How quickly traffic is simulated: `python -m benchmarks.simulate TRACE [--check] [--json FILE]`.

TRACE is a table of arrivals and sizes, or a decision log. It is played through the policy that `twolane serve` starts
with, once undisturbed and once with a fast lane that is five times slower in the middle half; the worse rate counts.
Requests a second of processor time, so that other work on the machine does not count.
"""

import argparse
import json
import os
import time
from pathlib import Path

from gateway.enums import Task
from gateway.policy_files.load import load
from gateway.simulation.latency_models import assumed
from gateway.simulation.run import Setting, simulate
from gateway.simulation.simulated_upstreams import Spell
from gateway.simulation.traffic import read_trace

POLICY = Path(__file__).parents[1] / "policies" / "default.yaml"
BAR = 3000.0  # requests a second on one core
BEHAVIOURS = {"fast": assumed(200, 2), "careful": assumed(400, 5), "quality": assumed(400, 10)}


def main() -> int:
    """Command line; returns 1 if `--check` finds the rate under its bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trace", type=Path, metavar="TRACE")
    parser.add_argument("--check", action="store_true", help=f"exit 1 under {BAR:g} requests a second")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    options = parser.parse_args()
    rates = {name: measure(options.trace, slower) for name, slower in (("steady", None), ("slowed", 5.0))}
    for name, rate in rates.items():
        print(f"{name}: {rate:.0f} requests/s")
    if options.json:
        options.json.write_text(json.dumps(rates) + "\n")
    return 1 if options.check and min(rates.values()) < BAR else 0


def measure(file: Path, slower: float | None) -> float:
    """Requests per second of processor time, reading the trace left out."""
    trace, policy = read_trace(file, task=Task.EDIT), load(POLICY, os.environ)
    last_s = trace.arrivals[-1].at_s if trace.arrivals else 0.0
    spell = Spell(target="fast", from_s=last_s / 4, to_s=last_s * 3 / 4, slower=slower or 1.0)
    setting = Setting(trace=trace, behaviours=BEHAVIOURS, spells=(spell,))
    began_s = time.process_time()
    run = simulate(policy, setting)
    return len(run.ended) / (time.process_time() - began_s)


if __name__ == "__main__":
    raise SystemExit(main())
