"""Writes the files in policies/traces and their simulation results: `python -m benchmarks.golden_traces [--check]`.

The output is the same on every machine; `--check` writes nothing and exits 1 if a file differs.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

from gateway.cli import main as gateway

HOME = Path(__file__).parents[1] / "policies" / "traces"
LATENCIES = (
    "--latency",
    "fast=80+1.5",
    "--latency",
    "next=70+1.2",
    "--latency",
    "quality=150+8",
    "--price",
    "quality=2",
)
# expected result -> the trace and further arguments
PLAYED = {
    "steady.json": ("mixed.csv", LATENCIES),
    "slip.json": ("mixed.csv", (*LATENCIES, "--slow", "fast=5@60-160")),
    "down.json": ("mixed.csv", (*LATENCIES, "--down", "fast@60-160")),
    "log.json": ("log.jsonl", ("--latency", "next=70+1.2")),
}
BEGIN = datetime(2026, 1, 5, 9, tzinfo=UTC)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only compare; exit with 1 if a file differs")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as folder:
        made = write(Path(folder) if check else HOME)
        differ = [path.name for path in made if path.read_bytes() != (HOME / path.name).read_bytes()]
    for name in differ:
        print(f"{name} is out of date")
    return 1 if differ else 0


def write(folder: Path) -> list[Path]:
    """Write all files to this folder."""
    (folder / "mixed.csv").write_text("".join(mixed(Random(1))))
    (folder / "log.jsonl").write_text("".join(logged(Random(2))))
    for name, (trace, more) in PLAYED.items():
        line = ("policy", "simulate", HOME / "policy.yaml", folder / trace, *more, "--json", folder / name)
        if gateway([str(part) for part in line]):
            raise SystemExit(f"cannot generate {name}")
    return [folder / name for name in ("mixed.csv", "log.jsonl", *PLAYED)]


def mixed(dice: Random, *, rate: float = 5.0, seconds: float = 300.0) -> Iterator[str]:
    """Poisson arrivals; half are edits."""
    yield "arrival_s,input_tokens,output_tokens,task,stream,schema\n"
    at_s = dice.expovariate(rate)
    while at_s < seconds:
        task = dice.choices(["edit", "autocomplete", "structured", "chat"], [5, 1, 2, 2])[0]
        stream = "true" if task in ("autocomplete", "chat") else ""
        schema = "true" if task == "structured" else ""
        size = f"{int(dice.lognormvariate(5, 0.8))},{int(dice.lognormvariate(3.5, 0.5))}"
        yield f"{at_s:.3f},{size},{task},{stream},{schema}\n"
        at_s += dice.expovariate(rate)


def logged(dice: Random, *, rate: float = 2.0, count: int = 160) -> Iterator[str]:
    """Structured requests at the fast lane; 5 % of the responses are invalid and fall back to quality."""
    at = BEGIN
    for number in range(count):
        at += timedelta(seconds=dice.expovariate(rate))
        yield json.dumps(_decision(dice, at, number), separators=(",", ":")) + "\n"


def _decision(dice: Random, at: datetime, number: int) -> dict[str, object]:
    written, is_bad = int(dice.lognormvariate(3.5, 0.5)), dice.random() < 0.05
    fast_ms = (60 + 2 * written) * dice.lognormvariate(0, 0.2)
    attempts = [_attempt("fast", 0.3, fast_ms, "invalid_output" if is_bad else "ok")]
    if is_bad:
        attempts.append(_attempt("quality", fast_ms + 0.6, (150 + 8 * written) * dice.lognormvariate(0, 0.3), "ok"))
    return {
        "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"), "id": f"req_{number:024x}",
        "policy": "000000000000", "principal": None, "task": "extraction", "confidence": 0.95,
        "evidence": "response_format", "route": "constrained", "private": False, "stream": False,
        "input_tokens": int(dice.lognormvariate(5, 0.8)), "output_tokens": written, "schema": "sha256:0",
        "attempts": attempts, "target": "quality" if is_bad else "fast", "outcome": "ok",
        "fallback": "invalid_output" if is_bad else None, "total_ms": attempts[-1]["ended_ms"], "cost": 0.0,
    }  # fmt: skip


def _attempt(target: str, started_ms: float, took_ms: float, outcome: str) -> dict[str, object]:
    begun_ms, ended_ms = round(started_ms + 0.7 * took_ms, 2), round(started_ms + took_ms, 2)
    detail = "required at #/required" if outcome == "invalid_output" else ""
    return {
        "target": target, "started_ms": round(started_ms, 2), "first_byte_ms": begun_ms, "ended_ms": ended_ms,
        "outcome": outcome, "detail": detail,
    }  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
