"""Measures the worker on a GPU: `python -m benchmarks.gpu --json FILE [--small] [--seconds N]`.

The released shape runs with random bf16 weights (51 GB) through the worker's own loop; `--small` runs a small model of
the same architecture, also on a CPU. Each section is measured by itself within the time that is left, and its failure
is part of the result, so that one run on a borrowed card loses nothing. Random weights never converge, so the number of
steps is fixed.
"""

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.sections import SECTIONS, Bench


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns 1 if a section failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="write the results to FILE")
    parser.add_argument("--small", action="store_true", help="a small model, also on a CPU")
    parser.add_argument("--seconds", type=float, default=280.0, help="time for all sections (default 280)")
    options = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not options.small:
        parser.error("no GPU is available; --small runs on a CPU")
    bench = Bench(device=device, is_small=options.small)
    results = run(bench, SECTIONS, options.json, seconds=options.seconds)
    return int(any(isinstance(each, dict) and "error" in each for each in results.values()))


def run(
    bench: Bench, sections: Mapping[str, tuple[float, Callable[[Bench], Any]]], file: Path, *, seconds: float
) -> dict[str, Any]:
    """Measure every section for which its time, in seconds, is left; the file is written after each."""
    started, results = time.monotonic(), dict[str, Any]()
    for name, (needed_s, section) in sections.items():
        began = time.monotonic()
        left = seconds - (began - started)
        if left < needed_s:
            results[name] = {"skipped": f"{left:.0f} s left, {needed_s:.0f} s needed"}
        else:
            results[name] = _measured(section, bench) | {"seconds": round(time.monotonic() - began, 1)}
        print(name, json.dumps(results[name]), flush=True)
        file.write_text(json.dumps(results, indent=1) + "\n")
    return results


def _measured(section: Callable[[Bench], dict[str, Any]], bench: Bench) -> dict[str, Any]:
    try:
        return section(bench)
    except Exception as error:  # noqa: BLE001 - of any kind: the other sections are worth having
        return {"error": repr(error)[:300], "trace": traceback.format_exc()[-900:]}
    finally:
        bench.release()


if __name__ == "__main__":
    sys.exit(main())
