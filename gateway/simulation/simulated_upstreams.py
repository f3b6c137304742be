"""Doors whose targets are models of latency and faults: what the pipeline calls in a simulation.

A bad answer is bad text and a doubtful one says so: whether anybody minds is up to the policy's checks, which are real.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import orjson

from gateway.enums import Capability, FormatKind, Reason
from gateway.errors import AttemptFailed, NoLatency, NotResident, Overloaded, Refused, UpstreamError
from gateway.simulation.latency_models import Behaviour
from gateway.simulation.traffic import Arrival
from gateway.simulation.virtual_time import Luck
from gateway.types import Call, Delta, OutputFormat, Query, Status, Target, Usage
from gateway.upstreams.parse_response import read_delta
from gateway.validation.json_schema import check_schema

CHARS_PER_TOKEN: Final = 4
_SCHEMA: Final = {"type": "object"}
_OUTPUT_FORMAT: Final = OutputFormat(form=FormatKind.JSON_SCHEMA, schema=_SCHEMA, digest=check_schema(_SCHEMA))
_STATUS: Final = Status()
_RAISED: Final[Mapping[Reason, type[AttemptFailed]]] = {
    Reason.UPSTREAM_ERROR: UpstreamError,
    Reason.OVERLOADED: Overloaded,
    Reason.NOT_RESIDENT: NotResident,
    Reason.REFUSED: Refused,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Spell:
    """A target is so many times slower for a while, or down (`slower` None). Seconds since the trace's beginning."""

    target: str
    from_s: float
    to_s: float
    slower: float | None = None


def _event(**body: object) -> Delta:
    return read_delta(orjson.dumps({"id": "simulated", "choices": [{"index": 0, **body}]}))


def _texts(text: str) -> tuple[Delta, Delta, Delta]:
    """Whole; and as a stream, first word and the rest."""
    whole = _event(message={"content": text}, finish_reason="stop")
    return whole, _event(delta={"content": text[:1]}), _event(delta={"content": text[1:]}, finish_reason="stop")


_PLAIN: Final = _texts("words")
_JSON: Final = _texts("{}")
_BROKEN: Final = _texts("no JSON")


def query_of(arrival: Arrival, now_s: float) -> Query:
    """The request as the gateway would have parsed it, its texts left out."""
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
        principal=arrival.principal,
        output_format=_OUTPUT_FORMAT if arrival.has_schema else None,
        needs=frozenset(needs),
        prompt_chars=CHARS_PER_TOKEN * arrival.input_tokens,
    )


class SimulatedUpstreams:
    """Call it with a target. Servers that share a target behave alike."""

    def __init__(
        self,
        behaviours: Mapping[str, Behaviour],
        arrivals: Sequence[Arrival],
        luck: Luck,
        spells: Sequence[Spell] = (),
    ) -> None:
        self._behaviours = behaviours
        self._arrivals = arrivals
        self._luck = luck
        self._spells = spells
        self._doors: dict[str, SimulatedUpstream] = {}

    def __call__(self, target: Target) -> "SimulatedUpstream":
        """Raises NoLatency for a target of which nothing is known."""
        door = self._doors.get(target.name)
        if door is None:
            title = target.policy_name
            if title not in self._behaviours:
                raise NoLatency(
                    f"nothing tells how long {title!r} takes: --fit a log with answers of it, or --latency {title}=MS"
                )
            spells = [spell for spell in self._spells if spell.target == title]
            door = SimulatedUpstream(title, self._behaviours[title], self, spells)
            self._doors[target.name] = door
        return door

    def arrival(self, query: Query) -> Arrival:
        """The trace's row behind a query."""
        return self._arrivals[int(query.request_id)]

    def luck(self, *purpose: str | int) -> tuple[float, float]:
        """See `Luck.pair`."""
        return self._luck.pair(*purpose)


class SimulatedUpstream:
    """See `ports.Upstream`."""

    def __init__(self, title: str, behaviour: Behaviour, registry: SimulatedUpstreams, spells: Sequence[Spell]) -> None:
        self.status = _STATUS
        self._title = title
        self._behaviour = behaviour
        self._doors = registry
        self._spells = spells
        self._asked: Counter[str] = Counter()

    async def send(self, call: Call) -> "SimulatedReply":
        """Waits for the first byte, or for the fault."""
        arrival = self._doors.arrival(call.query)
        self._asked[call.query.request_id] += 1
        quick, good = self._doors.luck(self._title, arrival.number, self._asked[call.query.request_id])
        slower = self._slower(asyncio.get_running_loop().time())
        if slower is None:
            raise UpstreamError("The target is down.", detail="simulated: down")
        faults = self._behaviour.faults.get(arrival.has_schema)
        fault, after_ms = faults.drawn(good) if faults is not None else (None, 0.0)
        if fault is not None and fault in _RAISED:
            await asyncio.sleep(after_ms * slower / 1000)
            raise _RAISED[fault](f"The target answered: {fault}.", detail="simulated")
        first_ms, whole_ms = self._behaviour.takes_ms(arrival.input_tokens, arrival.output_tokens, quick)
        await asyncio.sleep(first_ms * slower / 1000)
        return SimulatedReply(
            arrival, fault, rest_s=(whole_ms - first_ms) * slower / 1000, usage=self._usage(arrival, fault)
        )

    async def aclose(self) -> None:
        """Nothing to close."""

    def _slower(self, now_s: float) -> float | None:
        factor = 1.0
        for spell in self._spells:
            if spell.from_s <= now_s < spell.to_s:
                if spell.slower is None:
                    return None
                factor *= spell.slower
        return factor

    def _usage(self, arrival: Arrival, fault: Reason | None) -> Usage:
        return Usage(
            input_tokens=arrival.input_tokens,
            output_tokens=arrival.output_tokens,
            confidence=0.0 if fault is Reason.LOW_CONFIDENCE else 1.0,
            converged=True,
            cost=self._behaviour.dollars_per_token * (arrival.input_tokens + arrival.output_tokens),
        )


class SimulatedReply:
    """See `ports.UpstreamResponse`."""

    def __init__(self, arrival: Arrival, fault: Reason | None, *, rest_s: float, usage: Usage) -> None:
        self._stream = arrival.stream
        self._rest_s = rest_s
        self._usage = usage
        self._texts = _PLAIN if not arrival.has_schema else _BROKEN if fault is Reason.INVALID_OUTPUT else _JSON

    async def deltas(self) -> AsyncGenerator[Delta, None]:
        """The first word at once, everything else when the answer is whole."""
        whole, first, rest = self._texts
        if self._stream:
            yield first
            await asyncio.sleep(self._rest_s)
            yield replace(rest, usage=self._usage)
        else:
            await asyncio.sleep(self._rest_s)
            yield replace(whole, usage=self._usage)

    async def aclose(self) -> None:
        """Nothing is held."""
