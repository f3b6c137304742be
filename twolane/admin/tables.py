"""What a gateway's metrics page says about its lanes and targets, as tables for a terminal."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

Labels = tuple[tuple[str, str], ...]
LANE_STATES: Final = ("serving", "probing", "ejected")
BREAKER_STATES: Final = ("closed", "half open", "open")
UNKNOWN: Final = "-"


class Page:
    """The samples of a metrics page, by name and labels. Raises ValueError if it cannot be parsed."""

    def __init__(self, text: str) -> None:
        self._samples: dict[str, dict[Labels, float]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self._samples.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value

    def value(self, name: str, **labels: str) -> float | None:
        """One sample, or None."""
        return self._samples.get(name, {}).get(tuple(sorted(labels.items())))

    def labels(self, *names: str) -> list[dict[str, str]]:
        """The label sets of several metrics, each once."""
        return [dict(labels) for labels in sorted({each for name in names for each in self._samples.get(name, {})})]


def lanes(page: Page, now_s: float) -> Iterator[str]:
    """Lines about every lane, every target and the policy."""
    yield from table(("route", "target", "lane", "p95", "objective"), [_lane(page, lane) for lane in _lanes(page)])
    yield ""
    heads = ("target", "breaker", "in flight", "waiting", "weights", "predicted wait")
    targets = [labels["target"] for labels in page.labels("twolane_breaker_state")]
    yield from table(heads, [_target(page, target) for target in targets])
    yield ""
    yield from _process(page, now_s)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Left-aligned columns."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    for row in (heads, *rows):
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _lanes(page: Page) -> list[dict[str, str]]:
    return page.labels("twolane_lane_state")


def _lane(page: Page, lane: Mapping[str, str]) -> tuple[str, ...]:
    return (
        lane["route"],
        lane["target"],
        _word(LANE_STATES, page.value("twolane_lane_state", **lane)),
        _seconds(page.value("twolane_lane_p95_seconds", **lane)),
        _seconds(page.value("twolane_lane_budget_seconds", **lane)),
    )


def _target(page: Page, target: str) -> tuple[str, ...]:
    residency = page.labels("twolane_target_residency")
    return (
        target,
        _word(BREAKER_STATES, page.value("twolane_breaker_state", target=target)),
        _count(page.value("twolane_in_flight", target=target)),
        _count(page.value("twolane_requests_waiting", target=target)),
        " ".join(labels["state"] for labels in residency if labels["target"] == target) or UNKNOWN,
        _seconds(page.value("twolane_target_predicted_wait_seconds", target=target)),
    )


def _process(page: Page, now_s: float) -> Iterator[str]:
    policy = " ".join(labels["hash"] for labels in page.labels("twolane_policy_info")) or UNKNOWN
    loaded_s = page.value("twolane_policy_loaded_timestamp_seconds")
    state = "current" if page.value("twolane_policy_current") else "the file on disk fails to load: see the log"
    age = "" if loaded_s is None else f", loaded {max(0.0, now_s - loaded_s) / 60:.0f} min ago"
    yield f"policy  {policy} ({state}){age}"
    store = page.value("twolane_store_up")
    yield f"Redis   {'not used' if store is None else 'connected' if store else 'no exchange with other replicas'}"


def _word(words: Sequence[str], value: float | None) -> str:
    return words[int(value)] if value is not None and 0 <= value < len(words) else UNKNOWN


def _count(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.0f}"


def _seconds(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value * 1000:.0f} ms"
