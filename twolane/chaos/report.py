"""The report of a chaos run: results of the clients, compared with the gateways' decision logs."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from twolane.bench.figures import LatencySummary, summarise
from twolane.bench.load import OK
from twolane.chaos.clients import RequestResult
from twolane.chaos.plan import FaultInjection

AFTERMATH_S: Final = 3.0  # requests sent this long after a fault still count as affected
MEBIBYTE: Final = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Counts of requests, latency with and without faults, and the failures during each fault."""

    requests: int
    succeeded: int
    succeeded_first_attempt: int
    duplicates: int  # completed more than once for a client, or successful in the logs of two gateways
    errors: Mapping[str, int]  # of failed requests
    retried_errors: Mapping[str, int]  # of first attempts
    fallbacks: Mapping[str, int]
    targets: Mapping[str, int]
    without_faults: LatencySummary
    during_faults: LatencySummary
    faults: tuple[tuple[str, float, float, int], ...]  # description, from, until (seconds), failed requests
    unlogged: int  # successful, but in no log: the gateway was killed before it wrote the line
    log_lines: int
    partial_log_lines: int
    memory_mib: Mapping[str, tuple[int, int]]  # resident, before and after
    delay_s: float  # for which the schedule waited until parts had recovered

    @property
    def success(self) -> float:
        """Share of requests that succeeded."""
        return self.succeeded / self.requests if self.requests else 0.0

    def passed(self, least: float) -> bool:
        """Whether the success rate is at least `least`, and there are no duplicates."""
        return self.success >= least and not self.duplicates


def report(
    results: Sequence[RequestResult],
    faults: Sequence[FaultInjection],
    logs: Iterable[Path],
    *,
    memory: tuple[Mapping[str, int], Mapping[str, int]],
    delay_s: float = 0.0,
) -> Report:
    """Build the report. A killed gateway may leave a partial last line in its log, which is counted."""
    lines, partial = _read(logs)
    succeeded = [one for one in results if one.succeeded]
    logged = Counter(line.get("trace") for line in lines if line.get("outcome") == OK)
    completed = Counter(one.trace for one in results)
    affected = [one for one in succeeded if any(_affects(fault, one) for fault in faults)]
    routed = [one for one in succeeded if one.target]
    return Report(
        requests=len(results),
        succeeded=len(succeeded),
        succeeded_first_attempt=sum(one.attempts == 1 for one in succeeded),
        duplicates=sum(count > 1 for count in completed.values()) + sum(count > 1 for count in logged.values()),
        errors=dict(Counter(one.outcome for one in results if not one.succeeded)),
        retried_errors=dict(Counter(one.first_outcome for one in results if one.attempts > 1)),
        fallbacks=dict(Counter(one.fallback for one in routed if one.fallback)),
        targets=dict(Counter(str(one.target) for one in routed)),
        without_faults=summarise(one.latency_s for one in succeeded if one not in set(affected)),
        during_faults=summarise(one.latency_s for one in affected),
        faults=tuple(
            (str(fault), fault.at_s, fault.ends_s, sum(not one.succeeded and _affects(fault, one) for one in results))
            for fault in faults
        ),
        unlogged=sum(one.trace not in logged for one in succeeded),
        log_lines=len(lines),
        partial_log_lines=partial,
        memory_mib={name: (held // MEBIBYTE, memory[1].get(name, 0) // MEBIBYTE) for name, held in memory[0].items()},
        delay_s=delay_s,
    )


def show(found: Report, console: Console) -> None:
    """Print the tables and the counts."""
    faults = Table(title="Faults", title_justify="left")
    for name in ("fault", "from s", "until s", "failed requests"):
        faults.add_column(name, justify="left" if name == "fault" else "right")
    for description, begin_s, end_s, failed in found.faults:
        faults.add_row(description, f"{begin_s:.0f}", f"{end_s:.0f}", str(failed) if failed else "")
    console.print(faults)
    console.print(f"The schedule waited {found.delay_s:.0f} s in total for parts to recover.")
    latency = Table(title="Latency in milliseconds, including retries", title_justify="left")
    for name in ("", "responses", *(f"p{share:g}" for share in found.without_faults.percentiles_ms), "max"):
        latency.add_column(name, justify="right")
    for name, of in (("without faults", found.without_faults), ("during faults", found.during_faults)):
        latency.add_row(
            name, str(of.count), *(f"{value:.0f}" for value in of.percentiles_ms.values()), f"{of.max_ms:.0f}"
        )
    console.print(latency)
    for name, counts in (
        ("Responses by target", found.targets),
        ("Fallbacks", found.fallbacks),
        ("Errors of retried first attempts", found.retried_errors),
        ("Errors of failed requests", found.errors),
    ):
        console.print(f"{name}: " + (", ".join(f"{what} {count}" for what, count in counts.items()) or "none"))
    memory = ", ".join(f"{name} {before} to {after}" for name, (before, after) in found.memory_mib.items())
    console.print(f"Resident memory in MiB, before and after: {memory or 'unknown'}")
    console.print(
        f"Decision logs: {found.log_lines} lines, {found.partial_log_lines} partial lines, {found.unlogged} successful "
        "requests without a line"
    )
    console.print(
        f"{found.succeeded} of {found.requests} requests succeeded ({found.success:.3%}), "
        f"{found.succeeded_first_attempt} on the first attempt; {found.duplicates} duplicates.",
        style="bold",
    )


def _affects(fault: FaultInjection, one: RequestResult) -> bool:
    return fault.at_s <= one.due_s + one.latency_s and one.due_s <= fault.ends_s + AFTERMATH_S


def _read(logs: Iterable[Path]) -> tuple[list[dict[str, object]], int]:
    lines, partial = [], 0
    for log in logs:
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else ():
            try:
                lines.append(json.loads(line))
            except ValueError:
                partial += 1
    return lines, partial
