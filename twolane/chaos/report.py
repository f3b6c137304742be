"""What a chaos run showed: figures of what clients saw, and of what the gateways wrote down. Pure but for the logs."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from twolane.bench.figures import Spread, spread
from twolane.bench.load import OK
from twolane.chaos.clients import Ended
from twolane.chaos.plan import Trouble

AFTERMATH_S: Final = 3.0  # after a trouble has ended, requests still count as troubled
MEBIBYTE: Final = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Counts of requests, latencies when all was calm and when not, and each trouble with what went badly meanwhile."""

    requests: int
    good: int
    first_try: int
    more_than_once: int  # ended for the clients more often than once, or answered well in two gateways' logs
    outcomes: Mapping[str, int]  # of those that ended badly
    first_outcomes: Mapping[str, int]  # of tries that were repeated
    fallbacks: Mapping[str, int]
    targets: Mapping[str, int]
    calm: Spread
    troubled: Spread
    troubles: tuple[tuple[str, float, float, int], ...]  # what, from, until (seconds), requests that ended badly
    unlogged: int  # answered, but in no log: the gateway was killed before it wrote the line
    log_lines: int
    torn_lines: int
    memory_mib: Mapping[str, tuple[int, int]]  # resident, before and after

    @property
    def success(self) -> float:
        """Share of the requests that ended well."""
        return self.good / self.requests if self.requests else 0.0

    def is_good(self, least: float) -> bool:
        """Whether enough ended well, and all of them once."""
        return self.success >= least and not self.more_than_once


def report(
    ended: Sequence[Ended],
    plan: Sequence[Trouble],
    logs: Iterable[Path],
    *,
    memory: tuple[Mapping[str, int], Mapping[str, int]],
) -> Report:
    """Add it all up. A gateway that was killed may have torn the last line of its log; it is counted."""
    lines, torn = _read(logs)
    good = [one for one in ended if one.is_good]
    answered = Counter(line.get("trace") for line in lines if line.get("outcome") == OK)
    twice = Counter(one.trace for one in ended)
    troubled = [one for one in good if any(_touches(trouble, one) for trouble in plan)]
    told = [one for one in good if one.target]
    return Report(
        requests=len(ended),
        good=len(good),
        first_try=sum(one.is_good and one.tries == 1 for one in ended),
        more_than_once=sum(count > 1 for count in twice.values()) + sum(count > 1 for count in answered.values()),
        outcomes=dict(Counter(one.outcome for one in ended if not one.is_good)),
        first_outcomes=dict(Counter(one.first_outcome for one in ended if one.tries > 1)),
        fallbacks=dict(Counter(one.fallback for one in told if one.fallback)),
        targets=dict(Counter(str(one.target) for one in told)),
        calm=spread(one.latency_s for one in good if one not in set(troubled)),
        troubled=spread(one.latency_s for one in troubled),
        troubles=tuple(
            (str(one), one.at_s, one.ends_s, sum(not bad.is_good and _touches(one, bad) for bad in ended))
            for one in plan
        ),
        unlogged=sum(one.trace not in answered for one in good),
        log_lines=len(lines),
        torn_lines=torn,
        memory_mib={name: (held // MEBIBYTE, memory[1].get(name, 0) // MEBIBYTE) for name, held in memory[0].items()},
    )


def show(found: Report, page: Console) -> None:
    """Two tables and the counts."""
    troubles = Table(title="What went wrong", title_justify="left")
    for name in ("trouble", "from s", "until s", "badly ended"):
        troubles.add_column(name, justify="left" if name == "trouble" else "right")
    for what, begin_s, end_s, bad in found.troubles:
        troubles.add_row(what, f"{begin_s:.0f}", f"{end_s:.0f}", str(bad) if bad else "")
    page.print(troubles)
    times = Table(title="Milliseconds until the answer, tries included", title_justify="left")
    for name in ("", "answers", *(f"p{share:g}" for share in found.calm.percentiles_ms), "max"):
        times.add_column(name, justify="right")
    for name, of in (("calm", found.calm), ("troubled", found.troubled)):
        times.add_row(
            name, str(of.count), *(f"{value:.0f}" for value in of.percentiles_ms.values()), f"{of.max_ms:.0f}"
        )
    page.print(times)
    for name, counts in (
        ("answered by", found.targets),
        ("fallbacks", found.fallbacks),
        ("first tries that were repeated", found.first_outcomes),
        ("ended badly", found.outcomes),
    ):
        page.print(f"{name}: " + (", ".join(f"{what} {count}" for what, count in counts.items()) or "none"))
    page.print(f"resident MiB, before and after: {dict(found.memory_mib)}")
    page.print(f"{found.log_lines} decisions logged, {found.torn_lines} lines torn, {found.unlogged} answers in no log")
    page.print(
        f"{found.good} of {found.requests} requests ended well ({found.success:.3%}), {found.first_try} at the first "
        f"try, {found.more_than_once} more than once.",
        style="bold",
    )


def _touches(trouble: Trouble, one: Ended) -> bool:
    return trouble.at_s <= one.due_s + one.latency_s and one.due_s <= trouble.ends_s + AFTERMATH_S


def _read(logs: Iterable[Path]) -> tuple[list[dict[str, object]], int]:
    lines, torn = [], 0
    for log in logs:
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else ():
            try:
                lines.append(json.loads(line))
            except ValueError:
                torn += 1
    return lines, torn
