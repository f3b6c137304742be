"""Benchmark of the schema compiler on real schemas: `python -m benchmarks.constraints_compile FILE.jsonl [--check]
[--json FILE]`.

Each line of the file holds a `schema`, its `split`, and `tests`: instances that are `valid` or not. It counts per
split: schemas that compile, compile with validation, or are refused, by keyword; and it measures CPU time and number of
states (of the schema compiler only: `benchmarks.constraints` measures token compilation). Of the instances it counts
the valid ones that are accepted in normal form, and the invalid ones that are accepted, which is an error unless
validation follows; instances whose texts lack a `format` are counted apart. With the file of
`benchmarks.large_schemas`, only the limit on one compilation applies to times, and valid instances may be rejected
where the compiler reports that values are missing.
Rows on which jsonschema disagrees with the data set (`python_jsonschema_agrees_with_tests` is
false) are skipped.
"""

import argparse
import json
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from diffusion_worker.constraints.compile import Compilation, compile_schema
from diffusion_worker.constraints.schema.normal_form import to_normal_form
from diffusion_worker.errors import InvalidRequest, UnsupportedSchema

LARGE: Final = "Large"  # the split of `large_schemas`
HARD: Final = ("Github_hard", "Github_ultra", "JsonSchemaStore", LARGE)
EASY_SHARE: Final = 0.97
HARD_SHARE: Final = 0.75
P50_BUDGET_MS: Final = 75.0  # half of the budget of a compilation that includes token compilation
P95_BUDGET_MS: Final = 1500.0
LIMIT_MS: Final = 10_000.0  # of a compilation in the worker, for large schemas
VALID_SHARE: Final = 0.98


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One schema. `instances`: (valid and accepted, valid, invalid and accepted, invalid)."""

    split: str
    ms: float
    refused: str | None = None  # the keyword that was refused
    needs_check: tuple[str, ...] = ()
    states: int = 0
    tier: int = 0
    truncated: bool = False
    instances: tuple[int, int, int, int] = (0, 0, 0, 0)
    without_formats: tuple[int, int] = (0, 0)  # accepted, all: valid instances only where `format` is an annotation

    @property
    def unsound(self) -> bool:
        """Whether an invalid instance is accepted although no validation follows."""
        return self.instances[2] > 0 and not self.needs_check


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Figures of one split, or of all splits."""

    schemas: int
    compiled: int  # without validation
    with_check: int
    refused: dict[str, int]
    checked_keywords: dict[str, int]
    p50_ms: float
    p95_ms: float
    max_ms: float
    p50_states: int
    max_states: int
    valid_accepted: tuple[int, int]  # of
    without_formats: tuple[int, int]  # the same where `format` is an annotation: accepted, of
    whole_accepted: tuple[int, int]  # the same, of schemas where the compiler reports nothing missing
    unsound: int = field(default=0)

    @property
    def share(self) -> float:
        """Schemas that compile, with or without validation."""
        return (self.compiled + self.with_check) / self.schemas


def measure(case: dict[str, Any]) -> Row:
    """Compile one schema and test its instances."""
    started = time.process_time()
    try:
        compiled = compile_schema(case["schema"])
    except UnsupportedSchema as error:
        return Row(split=case["split"], ms=_ms(started), refused=error.keyword)
    except InvalidRequest:
        return Row(split=case["split"], ms=_ms(started), refused="not a schema")
    ms = _ms(started)
    instances, without_formats = _instances(compiled, case)
    return Row(
        split=case["split"],
        ms=ms,
        needs_check=compiled.needs_check,
        states=compiled.stats.states,
        tier=compiled.stats.tier,
        truncated=compiled.stats.truncated,
        instances=instances,
        without_formats=without_formats,
    )


def _ms(started: float) -> float:
    return (time.process_time() - started) * 1e3


def _instances(compiled: Compilation, case: dict[str, Any]) -> tuple[tuple[int, int, int, int], tuple[int, int]]:
    counts = Counter[tuple[bool | None, bool]]()
    for test in case["tests"]:
        value = to_normal_form(case["schema"], test["data"])
        accepted = compiled.automaton.accepts(json.dumps(value, ensure_ascii=False).encode())
        counts[None if test.get("formats") is False else test["valid"], accepted] += 1
    valid, invalid, loose = (counts[kind, True] + counts[kind, False] for kind in (True, False, None))
    return (counts[True, True], valid, counts[False, True], invalid), (counts[None, True], loose)


def summed(rows: Sequence[Row]) -> Split:
    """The figures of the given rows."""
    times = sorted(row.ms for row in rows)
    states = [row.states for row in rows if row.refused is None] or [0]
    whole = [row for row in rows if not row.truncated]
    return Split(
        schemas=len(rows),
        compiled=sum(row.refused is None and not row.needs_check for row in rows),
        with_check=sum(row.refused is None and bool(row.needs_check) for row in rows),
        refused=dict(Counter(row.refused for row in rows if row.refused is not None)),
        checked_keywords=dict(Counter(keyword for row in rows for keyword in row.needs_check)),
        p50_ms=statistics.median(times),
        p95_ms=times[min(len(times) - 1, int(0.95 * len(times)))],
        max_ms=times[-1],
        p50_states=int(statistics.median(states)),
        max_states=max(states),
        valid_accepted=(sum(row.instances[0] for row in rows), sum(row.instances[1] for row in rows)),
        without_formats=(sum(row.without_formats[0] for row in rows), sum(row.without_formats[1] for row in rows)),
        whole_accepted=(sum(row.instances[0] for row in whole), sum(row.instances[1] for row in whole)),
        unsound=sum(row.unsound for row in rows),
    )


def failures(splits: dict[str, Split]) -> list[str]:
    """The budgets that are exceeded."""
    whole = splits["all"]
    missed = [
        f"{name}: {split.share:.1%} compile"
        for name, split in splits.items()
        if name != "all" and split.share < (HARD_SHARE if name in HARD else EASY_SHARE)
    ]
    if set(splits) <= {LARGE, "all"}:
        kept, valid = whole.whole_accepted
        missed += [f"{valid - kept} of {valid} rejected and not reported"] if kept < VALID_SHARE * valid else []
        missed += [f"max {whole.max_ms:.0f} ms"] if whole.max_ms > LIMIT_MS else []
        return missed + ([f"{whole.unsound} unsound"] if whole.unsound else [])
    kept, valid = whole.valid_accepted
    missed += [f"{kept} of {valid} valid instances accepted"] if kept < VALID_SHARE * valid else []
    missed += [f"p50 {whole.p50_ms:.0f} ms"] if whole.p50_ms > P50_BUDGET_MS else []
    missed += [f"p95 {whole.p95_ms:.0f} ms"] if whole.p95_ms > P95_BUDGET_MS else []
    return missed + ([f"{whole.unsound} unsound"] if whole.unsound else [])


def show(splits: dict[str, Split]) -> None:
    """Print one line per split."""
    table = Table(
        "split",
        "schemas",
        "compiled",
        "with validation",
        "refused",
        "p50/p95/max ms",
        "states p50/max",
        "valid accepted",
    )
    for name, split in splits.items():
        kept, valid = split.valid_accepted
        refused = ", ".join(f"{keyword} {count}" for keyword, count in split.refused.items())
        times = f"{split.p50_ms:.0f} / {split.p95_ms:.0f} / {split.max_ms:.0f}"
        counts = [str(split.schemas), str(split.compiled), str(split.with_check), refused]
        table.add_row(name, *counts, times, f"{split.p50_states} / {split.max_states}", f"{kept} of {valid}")
    console = Console(width=150)
    console.print(table)
    if (loose := splits["all"].without_formats)[1]:
        console.print(f"valid only where `format` is an annotation: {loose[0]} of {loose[1]} accepted")
    console.print("left to validation:", dict(sorted(splits["all"].checked_keywords.items())))


def main(arguments: Iterable[str] | None = None) -> int:
    """Command line; returns 1 if `--check` finds an exceeded budget."""
    parser = argparse.ArgumentParser(description="benchmark the schema compiler on real schemas")
    parser.add_argument("file", type=Path)
    parser.add_argument("--check", action="store_true", help="exit with 1 if a budget is exceeded")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args(None if arguments is None else list(arguments))
    cases = [json.loads(line) for line in options.file.read_text().splitlines()]
    compile_schema(True)  # warm-up: imports and tables built on first use are not measured
    by_split: dict[str, list[Row]] = defaultdict(list)
    for case in cases:
        if case.get("python_jsonschema_agrees_with_tests") is not False:
            by_split[case["split"]].append(measure(case))
    splits = {name: summed(rows) for name, rows in by_split.items()}
    splits["all"] = summed([row for rows in by_split.values() for row in rows])
    show(splits)
    if options.json:
        options.json.write_text(json.dumps({name: asdict(split) for name, split in splits.items()}, indent=1))
    missed = failures(splits)
    print("\n".join(missed) if missed else "all figures are within their budgets")
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
