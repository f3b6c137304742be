"""What a dashboard says, free of any drawing program: boards, sections, panels, and how their queries are built.

Queries are PromQL with two marks: HERE stands for the matchers that keep to the chosen job and instances, SPAN for the
window that a rate needs at the shown resolution. Knows neither Grafana's JSON nor a data source.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

HERE: Final = 'job=~"$job", instance=~"$instance"'
SPAN: Final = "$__rate_interval"


class Colour(StrEnum):
    """What a state looks like, in Grafana's words."""

    GOOD = "green"
    SOSO = "yellow"
    BAD = "red"
    NEITHER = "gray"


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """What the value of a state is called, and how it looks."""

    text: str
    colour: Colour


def words(**named: Colour) -> tuple[Word, ...]:
    """For the values 0, 1, 2, ... in order; underscores are spaces."""
    return tuple(Word(text=text.replace("_", " "), colour=colour) for text, colour in named.items())


YES_OR_NO: Final = words(no=Colour.NEITHER, yes=Colour.GOOD)


class Kind(StrEnum):
    """How a panel is drawn."""

    LINES = "timeseries"
    NUMBER = "stat"
    STATES = "state-timeline"


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One expression, and how each series of its answer is called (labels in double braces)."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One question an operator has. `unit` is Grafana's word; `words` names the values 0, 1, 2, ... of a state; `width`
    counts the 24 columns of the grid."""

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    kind: Kind = Kind.LINES
    width: int = 12
    words: tuple[Word, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """A dashboard. `uid` is its address and file name, `jobs_of` a metric that every job it can show has."""

    uid: str
    title: str
    description: str
    jobs_of: str
    sections: tuple[Section, ...]

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All panels, in order."""
        return tuple(panel for section in self.sections for panel in section.panels)


def lines(title: str, description: str, unit: str, *queries: Query) -> Panel:
    """A panel of curves, half the width of the page."""
    return Panel(title=title, description=description, unit=unit, queries=queries)


def number(title: str, description: str, unit: str, expr: str) -> Panel:
    """One number, as it is now."""
    return Panel(
        title=title,
        description=description,
        unit=unit,
        queries=(Query(expr=expr, legend=title),),
        kind=Kind.NUMBER,
        width=6,
    )


def states(title: str, description: str, query: Query, *, words: tuple[Word, ...]) -> Panel:
    """Bands that change colour; value n is `words[n]`."""
    return Panel(title=title, description=description, unit="short", queries=(query,), kind=Kind.STATES, words=words)


def rate(counter: str, *by: str, where: str = "") -> Query:
    """How often per second, summed over everything but `by`."""
    return Query(expr=rate_of(counter, *by, where=where), legend=_legend(by) or "all")


def gauge(name: str, *by: str, how: str = "sum", where: str = "") -> Query:
    """A state, put together over everything but `by` by `how` (sum, max, min, avg)."""
    return Query(expr=f"{how}{_by(by)} ({name}{{{_matchers(where)}}})", legend=_legend(by) or "all")


def quantile(share: float, histogram: str, *by: str) -> Query:
    """The value that `share` of all observations stay under. Where nothing was observed there is no point: NaN >= 0 is
    false."""
    buckets = rate_of(f"{histogram}_bucket", "le", *by)
    return Query(
        expr=f"histogram_quantile({share:g}, {buckets}) >= 0",
        legend=" ".join(filter(None, (f"p{share * 100:g}", _legend(by)))),
    )


def mean(histogram: str, *by: str) -> Query:
    """Sum over count; no point where nothing was observed."""
    total, count = rate_of(f"{histogram}_sum", *by), rate_of(f"{histogram}_count", *by)
    return Query(expr=f"({total} / {count}) >= 0", legend=" ".join(filter(None, ("mean", _legend(by)))))


def share_of(part: str, whole: str, *by: str, where: str) -> Query:
    """Events of `part` that match `where`, per event of `whole`: 0 where there is none, no point where `whole` is
    silent."""
    counted = rate_of(part, *by, where=where)
    everything = rate_of(whole, *by)
    return Query(expr=f"(({counted} or 0 * {everything}) / {everything}) >= 0", legend=_legend(by) or "share")


def rate_of(counter: str, *by: str, where: str = "") -> str:
    """The expression of `rate`."""
    return f"sum{_by(by)} (rate({counter}{{{_matchers(where)}}}[{SPAN}]))"


def _matchers(where: str) -> str:
    return ", ".join(filter(None, (HERE, where)))


def _by(labels: tuple[str, ...]) -> str:
    return f" by ({', '.join(labels)})" if labels else ""


def _legend(labels: tuple[str, ...]) -> str:
    return " ".join(f"{{{{{label}}}}}" for label in labels)
