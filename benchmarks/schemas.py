"""Benchmark of the gateway's validation on real schemas: `python -m benchmarks.schemas FILE.jsonl [--check] [--json
FILE]`.

A line of the file is `{"schema": ..., "tests": [{"valid": true, "data": ...}]}`, as JSONSchemaBench has them. Each
instance is validated three times: by the gateway's compiled validator, by the reference implementation `jsonschema`,
and by the incremental validator, piece by piece as in a stream. The first two must agree, and the third must never
refuse what they accept.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

import jsonschema
from jsonschema.validators import validator_for

from gateway.validation.json_schema import Schema, SchemaError

PIECE_CHARS: Final = 12  # a few tokens
BUDGET_US: Final = 45.0  # incremental validation of one piece: the budget per forwarded chunk


@dataclass(slots=True)
class Tally:
    """The results. Times are medians over instances or schemas, in microseconds."""

    schemas: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    instances: int = 0
    invalid: int = 0
    disagreements: list[str] = field(default_factory=list)  # ids of rows
    unsound: list[str] = field(default_factory=list)
    found_early: int = 0  # invalid instances that were detected before their end
    compile_us: list[float] = field(default_factory=list)
    check_us: list[float] = field(default_factory=list)
    piece_us: list[float] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether compiled validator, reference and stream agreed, within the budget."""
        return not self.disagreements and not self.unsound and median(self.piece_us) <= BUDGET_US


def main() -> int:
    """Command line; returns 1 if `--check` finds a disagreement or an exceeded budget."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE.jsonl")
    parser.add_argument("--check", action="store_true", help="exit with 1 on a disagreement or an exceeded budget")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    options = parser.parse_args()
    tally = Tally()
    for row in _rows(options.file):
        validate_row(row, tally)
    _print(tally)
    if options.json:
        options.json.write_text(json.dumps(asdict(tally), indent=1))
    return 1 if options.check and not tally.is_good else 0


def validate_row(row: dict[str, Any], tally: Tally) -> None:
    """Measure one schema and all its instances."""
    tally.schemas += 1
    began = time.perf_counter()
    try:
        compiled = Schema(row["schema"])
    except SchemaError as fault:
        tally.refused[fault.cause] = tally.refused.get(fault.cause, 0) + 1
        return
    tally.compile_us.append((time.perf_counter() - began) * 1e6)
    reference = validator_for(row["schema"], jsonschema.Draft202012Validator)(row["schema"])
    for test in row["tests"]:
        _validate_instance(str(row.get("id", tally.schemas)), compiled, reference, test["data"], tally)


def _validate_instance(name: str, compiled: Schema, reference: Any, value: Any, tally: Tally) -> None:
    text = json.dumps(value, ensure_ascii=False)
    began = time.perf_counter()
    is_valid = compiled.validate(value, len(text)) is None
    tally.check_us.append((time.perf_counter() - began) * 1e6)
    fault_at = _read_along(compiled, text, tally)
    tally.instances += 1
    tally.invalid += not is_valid
    tally.found_early += fault_at is not None and fault_at < len(text) - 1
    if reference.is_valid(value) is not is_valid:
        tally.disagreements.append(name)
    if is_valid and fault_at is not None:
        tally.unsound.append(name)


def _read_along(compiled: Schema, text: str, tally: Tally) -> int | None:
    """Validate a text as a stream; returns the index of the first error, or None."""
    follower = compiled.incremental_validator()
    pieces = [text[at : at + PIECE_CHARS] for at in range(0, len(text), PIECE_CHARS)]
    began = time.perf_counter()
    for piece in pieces:
        if not follower.feed(piece):
            break
    tally.piece_us.append((time.perf_counter() - began) * 1e6 / max(1, len(pieces)))
    return follower.error_at


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file, without those on which the reference validator contradicts the data set."""
    for line in file.read_text().splitlines():
        row = json.loads(line)
        if row.get("python_jsonschema_agrees_with_tests") is not False:
            yield row


def _print(tally: Tally) -> None:
    print(f"{tally.schemas} schemas, refused: {tally.refused or 'none'}")
    print(f"{tally.instances} instances, {tally.invalid} invalid, {tally.found_early} of these detected early")
    print(f"disagreements with jsonschema: {tally.disagreements or 'none'}; unsound streams: {tally.unsound or 'none'}")
    times = (median(tally.compile_us), median(tally.check_us), median(tally.piece_us))
    print("compile {:.0f} us a schema, check {:.1f} us an instance, incremental {:.1f} us a piece".format(*times))


if __name__ == "__main__":
    raise SystemExit(main())
