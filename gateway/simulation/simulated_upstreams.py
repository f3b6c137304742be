"""Upstream clients whose targets are models of latency and failures: what the pipeline calls in a simulation.

An invalid response has invalid text and an uncertain one a low confidence: the real validation decides what happens.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import orjson

from gateway.enums import Capability, FormatKind, Reason
from gateway.errors import AttemptFailed, NoLatency, NotResident, Overloaded, Refused, UpstreamAuth, UpstreamError
from gateway.policy_types import LocationLimit
from gateway.simulation.latency_models import TargetModel
from gateway.simulation.traffic import Arrival
from gateway.simulation.virtual_time import SeededRandom
from gateway.types import CHARS_PER_TOKEN, Call, Delta, OutputFormat, Query, Status, Target, Usage
from gateway.upstreams.parse_response import read_delta
from gateway.validation.json_schema import check_schema

_SCHEMA: Final = {"type": "object"}
_OUTPUT_FORMAT: Final = OutputFormat(form=FormatKind.JSON_SCHEMA, schema=_SCHEMA, digest=check_schema(_SCHEMA))
_STATUS: Final = Status()
_RAISED: Final[Mapping[Reason, type[AttemptFailed]]] = {
    Reason.UPSTREAM_ERROR: UpstreamError,
    Reason.UPSTREAM_AUTH: UpstreamAuth,
    Reason.OVERLOADED: Overloaded,
    Reason.NOT_RESIDENT: NotResident,
    Reason.REFUSED: Refused,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Disruption:
    """A target is slower by a factor for a while, or down (`slowdown` None). Seconds since the start of the trace."""

    target: str
    from_s: float
    to_s: float
    slowdown: float | None = None


def _delta(**body: object) -> Delta:
    return read_delta(orjson.dumps({"id": "simulated", "choices": [{"index": 0, **body}]}))


def _texts(text: str) -> tuple[Delta, Delta, Delta]:
    """A whole response, and as a stream its first chunk and the rest."""
    whole = _delta(message={"content": text}, finish_reason="stop")
    return whole, _delta(delta={"content": text[:1]}), _delta(delta={"content": text[1:]}, finish_reason="stop")


_PLAIN: Final = _texts("words")
_JSON: Final = _texts("{}")
_BROKEN: Final = _texts("no JSON")


def query_of(arrival: Arrival, now_s: float) -> Query:
    """The request as the gateway would have parsed it, without texts."""
    needs = [Capability.CHAT]
    if arrival.stream:
        needs.append(Capability.STREAM)
    if arrival.has_schema:
        needs.append(Capability.JSON_SCHEMA)
    return Query(
        request_id=str(arrival.number),
        model=arrival.target or "auto",
        body=b"",
        received_s=now_s,
        stream=arrival.stream,
        private=arrival.private,
        locations=() if arrival.locations is None else (LocationLimit("the trace", arrival.locations),),
        principal=arrival.principal,
        output_format=_OUTPUT_FORMAT if arrival.has_schema else None,
        needs=frozenset(needs),
        prompt_chars=CHARS_PER_TOKEN * arrival.input_tokens,
    )


class SimulatedUpstreams:
    """Call it with a target. Endpoints of a pool share its model."""

    def __init__(
        self,
        models: Mapping[str, TargetModel],
        arrivals: Sequence[Arrival],
        random: SeededRandom,
        disruptions: Sequence[Disruption] = (),
    ) -> None:
        self._models = models
        self._arrivals = arrivals
        self._random = random
        self._disruptions = disruptions
        self._upstreams: dict[str, SimulatedUpstream] = {}

    def __call__(self, target: Target) -> "SimulatedUpstream":
        """Raises NoLatency for a target without a model."""
        upstream = self._upstreams.get(target.name)
        if upstream is None:
            name = target.policy_name
            if name not in self._models:
                raise NoLatency(
                    f"no latency model for target {name!r}: --fit a log with its responses, or set --latency {name}=MS"
                )
            disruptions = [disruption for disruption in self._disruptions if disruption.target == name]
            upstream = SimulatedUpstream(name, self._models[name], self, disruptions)
            self._upstreams[target.name] = upstream
        return upstream

    def arrival(self, query: Query) -> Arrival:
        """The trace's row of a query."""
        return self._arrivals[int(query.request_id)]

    def sample(self, *purpose: str | int) -> tuple[float, float]:
        """See `SeededRandom.pair`."""
        return self._random.pair(*purpose)


class SimulatedUpstream:
    """See `ports.Upstream`."""

    def __init__(
        self, name: str, model: TargetModel, registry: SimulatedUpstreams, disruptions: Sequence[Disruption]
    ) -> None:
        self.status = _STATUS
        self._name = name
        self._model = model
        self._registry = registry
        self._disruptions = disruptions
        self._attempts: Counter[str] = Counter()

    async def send(self, call: Call) -> "SimulatedReply":
        """Waits for the first byte or for the failure."""
        arrival = self._registry.arrival(call.query)
        self._attempts[call.query.request_id] += 1
        latency_sample, fault_sample = self._registry.sample(
            self._name, arrival.number, self._attempts[call.query.request_id]
        )
        slowdown = self._slowdown(asyncio.get_running_loop().time())
        if slowdown is None:
            raise UpstreamError("The target is down.", detail="simulated: down")
        faults = self._model.faults.get(arrival.has_schema)
        fault, after_ms = faults.sample_fault(fault_sample) if faults is not None else (None, 0.0)
        if fault is not None and fault in _RAISED:
            await asyncio.sleep(after_ms * slowdown / 1000)
            raise _RAISED[fault](f"The target failed: {fault}.", detail="simulated")
        first_ms, whole_ms = self._model.latency_ms(arrival.input_tokens, arrival.output_tokens, latency_sample)
        await asyncio.sleep(first_ms * slowdown / 1000)
        return SimulatedReply(
            arrival, fault, rest_s=(whole_ms - first_ms) * slowdown / 1000, usage=self._usage(arrival, fault)
        )

    async def aclose(self) -> None:
        """Nothing to close."""

    def _slowdown(self, now_s: float) -> float | None:
        factor = 1.0
        for disruption in self._disruptions:
            if disruption.from_s <= now_s < disruption.to_s:
                if disruption.slowdown is None:
                    return None
                factor *= disruption.slowdown
        return factor

    def _usage(self, arrival: Arrival, fault: Reason | None) -> Usage:
        return Usage(
            input_tokens=arrival.input_tokens,
            output_tokens=arrival.output_tokens,
            confidence=0.0 if fault is Reason.LOW_CONFIDENCE else 1.0,
            converged=True,
            cost=self._model.dollars_per_token * (arrival.input_tokens + arrival.output_tokens),
        )


class SimulatedReply:
    """See `ports.UpstreamResponse`."""

    def __init__(self, arrival: Arrival, fault: Reason | None, *, rest_s: float, usage: Usage) -> None:
        self._stream = arrival.stream
        self._rest_s = rest_s
        self._usage = usage
        self._texts = _PLAIN if not arrival.has_schema else _BROKEN if fault is Reason.INVALID_OUTPUT else _JSON

    async def deltas(self) -> AsyncGenerator[Delta, None]:
        """The first chunk at once, the rest when the response is complete."""
        whole, first, rest = self._texts
        if self._stream:
            yield first
            await asyncio.sleep(self._rest_s)
            yield replace(rest, usage=self._usage)
        else:
            await asyncio.sleep(self._rest_s)
            yield replace(whole, usage=self._usage)

    async def aclose(self) -> None:
        """Nothing to close."""
