"""Figures of each server, and the bars that the gateway must meet. All bars are ratios of one run; the median round
counts."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.gateway.measure import CONNECTIONS, DIRECT, STREAMS, Sample, Soak
from benchmarks.gateway.servers import GATEWAY, NGINX, RELAY, TENSORZERO, TRACED

MAX_BURST_SHARE: Final = 0.02  # of the streams of a burst of load that counts
MAX_GROWTH: Final = 1.1  # of the memory, over the soak

Figure = Callable[[str, int], float | None]  # of a server in a round


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One ratio and its limit. `ratio` is None if it was not measured."""

    name: str
    limit: float
    ratio: float | None
    needs_peer: bool = False

    @property
    def is_met(self) -> bool:
        """A bar that was not measured is not met, unless it compares with a peer that may be absent."""
        return self.needs_peer if self.ratio is None else self.ratio <= self.limit


class Figures:
    """Looks up the samples of a run."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._samples = {(each.server, each.load, each.connections, each.round): each for each in samples}
        self.rounds = sorted({each.round for each in self._samples.values()})
        self.names = list(dict.fromkeys(each.server for each in self._samples.values()))

    def whole(self, name: str, connections: int, number: int) -> Sample | None:
        """A burst of whole answers."""
        return self._samples.get((name, "whole", connections, number))

    def streams(self, name: str, number: int) -> Sample | None:
        """A burst of streams; None if too many of them did not arrive chunk by chunk: their cost is not comparable."""
        sample = self._samples.get((name, "streams", STREAMS, number))
        return sample if sample and sample.answers and sample.bursts <= MAX_BURST_SHARE * sample.answers else None

    def cpu_us(self, connections: int) -> Figure:
        """CPU time per request."""
        return lambda name, number: found.cpu_us if (found := self.whole(name, connections, number)) else None

    def p99_us(self, connections: int) -> Figure:
        """p99 of the latency."""
        return lambda name, number: found.p99_us if (found := self.whole(name, connections, number)) else None

    def added_us(self, connections: int, quantile: str = "p50_us") -> Figure:
        """What a server adds to a quantile of the latency."""

        def figure(name: str, number: int) -> float | None:
            found, direct = self.whole(name, connections, number), self.whole(DIRECT, connections, number)
            added: float | None = getattr(found, quantile) - getattr(direct, quantile) if found and direct else None
            return added

        return figure

    def chunk_us(self, name: str, number: int) -> float | None:
        """CPU time per chunk."""
        return found.cpu_us if (found := self.streams(name, number)) else None

    def median(self, figure: Figure, name: str) -> float | None:
        """The median round; None if there is none."""
        found = [value for number in self.rounds if (value := figure(name, number)) is not None]
        return median(found) if found else None

    def ratio(self, figure: Figure, name: str, other: str) -> float | None:
        """The median of the ratios of each round."""
        pairs = [(figure(name, number), figure(other, number)) for number in self.rounds]
        found = [mine / theirs for mine, theirs in pairs if mine is not None and theirs]
        return median(found) if found else None


def bars(samples: list[Sample], grown: Soak | None) -> list[Bar]:
    """The bars of this run."""
    figures = Figures(samples)

    def bar(name: str, limit: float, figure: Figure, other: str, mine: str = GATEWAY) -> Bar:
        is_peer = other in (TENSORZERO, NGINX)
        return Bar(name=name, limit=limit, ratio=figures.ratio(figure, mine, other), needs_peer=is_peer)

    found = []
    for connections in CONNECTIONS[1:]:
        cpu_us, at = figures.cpu_us(connections), f"CPU per request at {connections}"
        found.append(bar(f"{at}, to the bare relay", 1.0, cpu_us, RELAY))
        found.append(bar(f"{at}, to TensorZero", 0.7, cpu_us, TENSORZERO))
        found.append(bar(f"{at}, tracing 1 % to none", 1.05, cpu_us, GATEWAY, mine=TRACED))
    found.append(bar("added p50 at 1, to TensorZero", 0.8, figures.added_us(1), TENSORZERO))
    found.append(bar("p99 at 64, to the bare relay", 1.3, figures.p99_us(64), RELAY))
    found.append(bar("CPU per chunk, to the bare relay", 1.0, figures.chunk_us, RELAY))
    found.append(bar("CPU per chunk, to nginx", 2.0, figures.chunk_us, NGINX))
    growth = grown.growth if grown else None
    found.append(Bar(name="memory after the soak, to before", limit=MAX_GROWTH, ratio=growth))
    failures = sum(each.failures for each in samples if each.server in (GATEWAY, TRACED))
    failures += grown.failures if grown else 0
    return [*found, Bar(name="failed requests", limit=0, ratio=failures)]


def show(samples: list[Sample], found: list[Bar]) -> None:
    """Print the figures of each server, then the bars."""
    console = Console(width=190)
    console.print(_table(Figures(samples)))
    table = Table(title="Bars (ratios of this run)", title_justify="left")
    for heading in ("", "ratio", "limit", ""):
        table.add_column(heading, justify="right" if heading else "left")
    for bar in found:
        ratio, color = ("-", "yellow") if bar.ratio is None else (f"{bar.ratio:.2f}", "green" if bar.is_met else "red")
        verdict = "not measured" if bar.ratio is None else "met" if bar.is_met else "not met"
        table.add_row(bar.name, ratio, f"{bar.limit:g}", f"[{color}]{verdict}")
    console.print(table)


def _table(figures: Figures) -> Table:
    title = f"Medians of {len(figures.rounds)} rounds; us, latencies without the server subtracted"
    table = Table(title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    headings = [f"CPU c{c}" for c in CONNECTIONS] + ["to relay", "req/s of a core"]
    headings += [f"+{q} c{c}" for c in CONNECTIONS for q in ("p50", "p99")] + ["CPU/chunk", "RSS MB", "failed"]
    for heading in headings:
        table.add_column(heading, justify="right")
    for name in figures.names:
        if name != DIRECT:
            table.add_row(name, *_row(figures, name))
    return table


def _row(figures: Figures, name: str) -> list[str]:
    middle = CONNECTIONS[1]
    cells = [_text(figures.median(figures.cpu_us(c), name)) for c in CONNECTIONS]
    cells.append(_text(figures.ratio(figures.cpu_us(middle), name, RELAY), ".2f"))
    cpu_us = figures.median(figures.cpu_us(middle), name)
    cells.append(_text(1e6 / cpu_us if cpu_us else None))
    for connections in CONNECTIONS:
        for quantile in ("p50_us", "p99_us"):
            cells.append(_text(figures.median(figures.added_us(connections, quantile), name)))
    chunk_us = figures.median(figures.chunk_us, name)
    cells.append("burst" if chunk_us is None else _text(chunk_us, ".1f"))
    found = [each for number in figures.rounds for c in CONNECTIONS if (each := figures.whole(name, c, number))]
    cells.append(_text(max((each.rss_mb or 0 for each in found), default=None)))
    return [*cells, str(sum(each.failures for each in found))]


def _text(value: float | None, form: str = ",.0f") -> str:
    return "-" if value is None else format(value, form)


def as_json(samples: list[Sample], found: list[Bar], grown: Soak | None, facts: dict[str, Any]) -> dict[str, Any]:
    """Everything that was measured."""
    return {
        **facts,
        "samples": [asdict(each) for each in samples],
        "bars": [asdict(each) | {"is_met": each.is_met} for each in found],
        "soak": asdict(grown) if grown else None,
    }
