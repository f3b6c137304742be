"""Counters by API key, for the owners of applications: requests, tokens, cost, and refusals for a limit of the key.

The label is the key's name in the keys file, never the key. The number of names is bounded: files may hold thousands,
and every name is several series for as long as the process runs.
"""

from gateway.decision import Decision
from gateway.enums import ErrorSource, Outcome
from gateway.telemetry import metric_names as names
from gateway.telemetry.cells import Cells, CounterCell
from gateway.telemetry.common_decisions import UsageCells

_RATE_LIMITED = 429


class _KeyCells:
    """The cells of one key."""

    __slots__ = ("cost", "input", "label", "output", "rate_limited", "results")

    def __init__(
        self, label: str, rate_limited: CounterCell, tokens: tuple[CounterCell, CounterCell], cost: CounterCell
    ):
        self.label, self.rate_limited, self.cost = label, rate_limited, cost
        self.input, self.output = tokens
        self.results: dict[tuple[Outcome, ErrorSource | None], CounterCell] = {}


class KeyMetrics:
    """Counts decisions by API key. `none`: no key was required; `other`: keys beyond the first MAX_KEYS."""

    def __init__(self, cells: Cells, *, max_keys: int = names.MAX_KEYS) -> None:
        self._cells, self._max_keys = cells, max_keys
        self._requests = cells.counter(
            names.KEY_REQUESTS, "Completed requests by API key.", "key", "outcome", "error_source"
        )
        self._tokens = cells.counter(
            names.KEY_TOKENS, "Tokens of attempts by API key, estimated where not reported.", "key", "type"
        )
        self._cost = cells.counter(names.KEY_COST, "Cost of attempts in dollars by API key, if known.", "key")
        self._limited = cells.counter(
            names.KEY_RATE_LIMITED, "Requests refused with 429 for a limit of their API key.", "key"
        )
        self._known: dict[str | None, _KeyCells] = {}
        self._other: _KeyCells | None = None

    def decided(self, decision: Decision) -> None:
        """Count one request."""
        cells = self._known.get(decision.principal) or self._of(decision.principal)
        outcome, source = decision.outcome, decision.error_source
        (cells.results.get((outcome, source)) or self._result(cells, outcome, source)).value += 1
        for attempt in decision.attempts:
            usage = attempt.usage or attempt.estimate
            if usage is not None:
                cells.input.value += usage.input_tokens or 0
                cells.output.value += usage.output_tokens or 0
                cells.cost.value += usage.cost or 0.0
        if decision.status == _RATE_LIMITED and source is ErrorSource.CLIENT:
            cells.rate_limited.value += 1

    def cells_of(self, decision: Decision) -> tuple[CounterCell, UsageCells]:
        """The counter of requests like this one, and where their usage counts."""
        cells = self._known.get(decision.principal) or self._of(decision.principal)
        usage = UsageCells(cells.input, cells.output, cells.cost)
        return self._result(cells, decision.outcome, decision.error_source), usage

    def rate_limited(self, key: str | None) -> None:
        """Count a refusal that is no decision: of feedback."""
        (self._known.get(key) or self._of(key)).rate_limited.value += 1

    def _of(self, key: str | None) -> _KeyCells:
        if key is not None and len(self._known) >= self._max_keys:
            if self._other is None:
                self._other = self._make(names.OTHER)
            return self._other
        found = self._known[key] = self._make(names.NONE if key is None else key)
        return found

    def _make(self, label: str) -> _KeyCells:
        count_of = self._cells.count_of
        limited = count_of(self._limited, label)
        limited.show()  # rare: without an initial 0 the first one would be invisible to `rate`
        tokens = count_of(self._tokens, label, "input"), count_of(self._tokens, label, "output")
        return _KeyCells(label, limited, tokens, count_of(self._cost, label))

    def _result(self, cells: _KeyCells, outcome: Outcome, source: ErrorSource | None) -> CounterCell:
        found = cells.results[(outcome, source)] = self._cells.count_of(
            self._requests, cells.label, outcome, source or ""
        )
        return found
