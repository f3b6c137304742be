"""Analyses PromQL expressions for tests."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import promql_parser

DASHBOARD_VARIABLES = {
    "$__rate_interval": "1m",
    "$__range": "1h",
    "$job": ".+",
    "$instance": ".+",
    "$route": ".+",
    "$target": ".+",
    "$key": ".+",
}
_RATES = {"rate", "irate", "increase", "delta", "deriv"}
_PARTS = ("lhs", "rhs", "expr", "param", "vector_selector")


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """One metric in an expression: its name, its label matchers, and the window of the rate around it."""

    name: str
    labels: frozenset[str]
    rate_window_s: float | None


def filled_in(expr: str, **more: str) -> str:
    """The expression with a dashboard's variables replaced."""
    for variable, value in (DASHBOARD_VARIABLES | {f"${name}": value for name, value in more.items()}).items():
        expr = expr.replace(variable, value)
    return expr


def selectors(expr: str) -> list[Selector]:
    """All metrics in an expression. Raises ValueError if it does not parse."""
    return list(_walk(promql_parser.parse(expr), None))


def _walk(node: Any, window_s: float | None) -> Iterator[Selector]:
    if isinstance(node, promql_parser.VectorSelector):
        labels = frozenset(matcher.name for matcher in node.matchers.matchers)
        yield Selector(name=node.name or "", labels=labels, rate_window_s=window_s)
        return
    if isinstance(node, promql_parser.Call):
        for argument in node.args:
            is_rate = node.func.name in _RATES and isinstance(argument, promql_parser.MatrixSelector)
            yield from _walk(argument, argument.range.total_seconds() if is_rate else window_s)
        return
    for part in _PARTS:
        child = getattr(node, part, None)
        if child is not None:
            yield from _walk(child, window_s)
