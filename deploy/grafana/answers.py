"""Query results for a Board from Prometheus: every query of every panel, with Grafana's variables filled in."""

import json
import math
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass

from deploy.grafana.panels import Board, Panel, Query


class AnswerError(Exception):
    """Prometheus cannot be reached or rejects the query; the message names the query."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Time range (seconds since the epoch), resolution `step_s` and rate window `rate_s`."""

    begin_s: float
    end_s: float
    step_s: float
    rate_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One series: its legend name and its points (seconds since the epoch, value) without NaN."""

    name: str
    points: tuple[tuple[float, float], ...]
    had_nan: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A panel and the series of each of its queries."""

    panel: Panel
    series: tuple[tuple[Series, ...], ...]

    @property
    def curves(self) -> tuple[Series, ...]:
        """Series of all queries."""
        return tuple(one for found in self.series for one in found)

    @property
    def complaints(self) -> tuple[str, ...]:
        """Queries without data and series that contain NaN."""
        empty = [
            f"{self.panel.title}: no data for {query.expr}"
            for query, found in zip(self.panel.queries, self.series, strict=True)
            if not any(one.points for one in found)
        ]
        return (*empty, *(f"{self.panel.title}: {one.name} is not a number" for one in self.curves if one.had_nan))


def query_board(board: Board, url: str, window: Window) -> tuple[Answered, ...]:
    """Run the queries of every panel. Raises AnswerError."""
    return tuple(
        Answered(panel=panel, series=tuple(_series(query, url, window) for query in panel.queries))
        for panel in board.panels
    )


def filled_in(expr: str, window: Window) -> str:
    """The expression with Grafana's variables replaced, for all jobs and instances."""
    values = {
        "$__rate_interval": f"{window.rate_s:.0f}s",
        "$__range": f"{window.end_s - window.begin_s:.0f}s",
        "$job": ".+",
        "$instance": ".+",
        "$route": ".+",
        "$target": ".+",
        "$key": ".+",
    }
    for name, value in values.items():
        expr = expr.replace(name, value)
    return expr


def _series(query: Query, url: str, window: Window) -> tuple[Series, ...]:
    asked = {
        "query": filled_in(query.expr, window),
        "start": window.begin_s,
        "end": window.end_s,
        "step": window.step_s,
    }
    body = urllib.parse.urlencode(asked).encode()
    try:
        with urllib.request.urlopen(f"{url}/api/v1/query_range", data=body, timeout=120) as answer:  # noqa: S310
            result = json.load(answer)["data"]["result"]
    except urllib.error.HTTPError as fault:
        raise AnswerError(f"{asked['query']}: {fault.read().decode(errors='replace')}") from None
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise AnswerError(f"{url}: {fault}") from None
    return tuple(_one(query, each) for each in result)


def _one(query: Query, found: Mapping[str, object]) -> Series:
    labels, values = found["metric"], found["values"]
    assert isinstance(labels, dict)
    assert isinstance(values, list)
    name = re.sub(r"\{\{(\w+)\}\}", lambda label: str(labels.get(label[1], "")), query.legend)
    points = [(float(at_s), float(value)) for at_s, value in values]
    good = tuple(point for point in points if math.isfinite(point[1]))
    return Series(name=name.strip() or "all", points=good, had_nan=len(good) < len(points))
