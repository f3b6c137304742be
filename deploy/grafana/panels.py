"""Dashboards independent of the renderer: boards, sections, panels, and helpers that build their queries.

Queries are PromQL with two placeholders: HERE, the matchers of the selected jobs and instances, and SPAN, the rate
window at the shown resolution. This module knows neither Grafana's JSON nor a data source.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

HERE: Final = 'job=~"$job", instance=~"$instance"'
SPAN: Final = "$__rate_interval"
ANNOTATION_SPAN: Final = "1m"  # an event stays visible for this long at any resolution


class Colour(StrEnum):
    """Colour of a state, as Grafana names it."""

    GOOD = "green"
    SOSO = "yellow"
    BAD = "red"
    NEITHER = "gray"


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """Display text and colour of a state value."""

    text: str
    colour: Colour


def words(**named: Colour) -> tuple[Word, ...]:
    """Display texts of the values 0, 1, 2, ... in order; underscores become spaces."""
    return tuple(Word(text=text.replace("_", " "), colour=colour) for text, colour in named.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """From this value on, a number or a curve is shown in this colour; below the first one it is good."""

    at: float
    colour: Colour


ERRORS: Final = (
    Threshold(at=0.005, colour=Colour.SOSO),
    Threshold(at=0.02, colour=Colour.BAD),
)  # of TwolaneRequestsFail
SHARE: Final = (Threshold(at=0.05, colour=Colour.SOSO), Threshold(at=0.2, colour=Colour.BAD))  # of TwolaneFallbacksMany
ANY: Final = (Threshold(at=1, colour=Colour.BAD),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """A further choice of a dashboard's reader, besides jobs and instances."""

    name: str
    query: str
    label: str = ""  # shown beside the choice; default: the name


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """An event that every graph shows: where the expression has a value above 0."""

    name: str
    expr: str
    colour: str


YES_OR_NO: Final = words(no=Colour.NEITHER, yes=Colour.GOOD)


_POLICY: Final = 'twolane_policy_info{job=~"$job"}'

# Events that explain a change of any curve: they are in all dashboards.
ANNOTATIONS: Final = (
    Annotation(
        name="Policy",
        expr=f"sum by (hash) ({_POLICY} unless {_POLICY} offset {ANNOTATION_SPAN})",
        colour="purple",
    ),
    Annotation(
        name="Restart",
        expr=f'sum by (instance) (resets(twolane_overhead_seconds_count{{job=~"$job"}}[{ANNOTATION_SPAN}])) > 0',
        colour="orange",
    ),
)


class Kind(StrEnum):
    """Visualization of a panel."""

    LINES = "timeseries"
    NUMBER = "stat"
    STATES = "state-timeline"


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A PromQL expression and its legend format (labels in double braces)."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """`unit` is a Grafana unit id; `words` names the values 0, 1, 2, ... of a state; `width` counts columns of the
    24-column grid."""

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    kind: Kind = Kind.LINES
    width: int = 12
    words: tuple[Word, ...] = ()
    thresholds: tuple[Threshold, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """A dashboard. `uid` is its Grafana uid and file name, `jobs_of` a metric that all its jobs export."""

    uid: str
    title: str
    description: str
    jobs_of: str
    sections: tuple[Section, ...]
    variables: tuple[Variable, ...] = ()

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All panels, in order."""
        return tuple(panel for section in self.sections for panel in section.panels)


def lines(title: str, description: str, unit: str, *queries: Query, thresholds: tuple[Threshold, ...] = ()) -> Panel:
    """A time-series panel, half the width of the page."""
    return Panel(title=title, description=description, unit=unit, queries=queries, thresholds=thresholds)


def number(title: str, description: str, unit: str, expr: str, *, thresholds: tuple[Threshold, ...] = ()) -> Panel:
    """A panel with the current value of one number."""
    return Panel(
        title=title,
        description=description,
        unit=unit,
        queries=(Query(expr=expr, legend=title),),
        kind=Kind.NUMBER,
        width=6,
        thresholds=thresholds,
    )


def states(title: str, description: str, query: Query, *, words: tuple[Word, ...]) -> Panel:
    """A state timeline; value n is shown as `words[n]`."""
    return Panel(title=title, description=description, unit="short", queries=(query,), kind=Kind.STATES, words=words)


def rate(counter: str, *by: str, where: str = "") -> Query:
    """Rate per second, summed over all labels except `by`."""
    return Query(expr=rate_of(counter, *by, where=where), legend=_legend(by) or "all")


def gauge(name: str, *by: str, how: str = "sum", where: str = "") -> Query:
    """A gauge, aggregated with `how` (sum, max, min, avg) over all labels except `by`."""
    return Query(expr=f"{how}{_by(by)} ({name}{{{_matchers(where)}}})", legend=_legend(by) or "all")


def quantile(share: float, histogram: str, *by: str, where: str = "") -> Query:
    """The `share` quantile of a histogram. Without observations there is no data point, because NaN >= 0 is false."""
    buckets = rate_of(f"{histogram}_bucket", "le", *by, where=where)
    return Query(
        expr=f"histogram_quantile({share:g}, {buckets}) >= 0",
        legend=" ".join(filter(None, (f"p{share * 100:g}", _legend(by)))),
    )


def mean(histogram: str, *by: str) -> Query:
    """Sum divided by count; no data point without observations."""
    total, count = rate_of(f"{histogram}_sum", *by), rate_of(f"{histogram}_count", *by)
    return Query(expr=f"({total} / {count}) >= 0", legend=" ".join(filter(None, ("mean", _legend(by)))))


def share_of(part: str, whole: str, *by: str, where: str, within: str = "") -> Query:
    """Events of `part` that match `where`, divided by events of `whole` that match `within`. 0 if there are none; no
    data point if `whole` has no events."""
    counted = rate_of(part, *by, where=where)
    everything = rate_of(whole, *by, where=within)
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
