"""A pipeline over scripted targets, with a manual clock and a policy in one line."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from gateway.attempts.response import GatewayResponse
from gateway.decision import Decision, Mirrored
from gateway.enums import Kind
from gateway.pipeline import Pipeline
from gateway.policy_types import Checks
from gateway.routing.classify import classify
from gateway.routing.conditions import When
from gateway.routing.gates import Gate
from gateway.routing.policy import PRIVATE_LOCATIONS, Policy, Route, compile_policy
from gateway.state.memory import MemoryStore
from gateway.types import Query, Target
from gateway.upstreams.scripted import ScriptedResponse, ScriptedUpstream
from gateway.web.parse_request import parse_chat


class HandClock:
    """A clock that advances only when set, and by sleeping."""

    def __init__(self) -> None:
        self.time_s = 1000.0

    def now_s(self) -> float:
        return self.time_s

    def wall_s(self) -> float:
        return 1_700_000_000.0 + self.time_s

    def stalled_s(self, since_s: float, now_s: float) -> float:
        return 0.0

    def sample(self) -> float:
        return 0.5

    async def sleep(self, seconds: float) -> None:
        self.time_s += seconds
        await asyncio.sleep(0)


@dataclass
class Listener:
    """Records every published decision."""

    decisions: list[Decision] = field(default_factory=list)
    mirrors: list[Mirrored] = field(default_factory=list)

    def decided(self, decision: Decision) -> None:
        self.decisions.append(decision)

    def mirrored(self, mirrored: Mirrored) -> None:
        self.mirrors.append(mirrored)


@dataclass
class Sent:
    """The response as a client receives it."""

    texts: list[str]
    data: list[bytes]
    error: Any
    broken: Any
    headers: Decision

    @property
    def text(self) -> str:
        return "".join(self.texts)


@dataclass
class Stage:
    """A pipeline over scripted targets, in the order of one route `main`."""

    clock: Any
    listener: Listener
    state: MemoryStore
    targets: dict[str, ScriptedUpstream]
    policy: Policy
    pipeline: Pipeline

    @property
    def decision(self) -> Decision:
        """The one decision of the one request."""
        assert len(self.listener.decisions) == 1
        return self.listener.decisions[0]

    @property
    def attempts(self) -> dict[str, str]:
        return {attempt.target: str(attempt.outcome) for attempt in self.listener.decisions[-1].attempts}

    def query(self, **body: Any) -> Query:
        headers = body.pop("headers", {})
        document = {"model": "auto", "messages": [{"role": "user", "content": "hello"}], **body}
        return parse_chat(orjson.dumps(document), headers, now_s=self.clock.now_s(), key=None)

    async def send(self, **body: Any) -> Sent:
        """Send a request, read the response to its end, and close it."""
        answer = await self.pipeline.handle(self.query(**body))
        try:
            return await self.read(answer)
        finally:
            await answer.aclose()

    async def read(self, answer: GatewayResponse) -> Sent:
        sent = Sent([], [], answer.error, None, answer.decision(self.clock.now_s()))
        try:
            if answer.error is None:
                async for delta in answer.deltas():
                    sent.data.append(delta.data)
                    sent.texts += [piece.text for piece in delta.pieces]
        except Exception as fault:
            sent.broken = fault
        return sent


def build_stage(
    *,
    route: dict[str, Any] | None = None,
    clock: Any = None,
    private_locations: frozenset[str] = PRIVATE_LOCATIONS,
    **given: Any,
) -> Stage:
    clock = clock or HandClock()
    lines = {name: value for name, value in given.items() if not name.endswith("_target")}
    scripted = {name: ScriptedUpstream(_lines(value), sleep=clock.sleep) for name, value in lines.items()}
    targets = {name: _target(name, given.get(f"{name}_target", {})) for name in scripted}
    shadow = (route or {}).get("shadow", ("", 0.0))[0]
    names = tuple(name for name in targets if name != shadow)
    rule = Route(name="main", when=When(), use=names[0], fall_back=names[1:], checks=Checks())
    policy = compile_policy(
        content_hash="0123456789abcdef",
        targets=targets,
        target_slos={},
        routes=(replace(rule, **_route_fields(route or {})),),
        private_locations=private_locations,
    )
    state, listener = MemoryStore(), Listener()
    pipeline = Pipeline(
        policies=_Fixed(policy),
        classify=classify,
        upstreams=lambda target: scripted[target.name],
        state=state,
        observer=listener,
        world=clock,
    )
    return Stage(clock, listener, state, scripted, policy, pipeline)


@dataclass
class _Fixed:
    current: Policy


def _route_fields(route: dict[str, Any]) -> dict[str, Any]:
    """The fields of a Route; `min_confidence` makes its gate."""
    minimum, fields = route.get("min_confidence"), {key: route[key] for key in route if key != "min_confidence"}
    return fields if minimum is None else {"gate": Gate(minimum=minimum), **fields}


def _lines(value: ScriptedResponse | Iterable[ScriptedResponse]) -> list[ScriptedResponse]:
    return [value] if isinstance(value, ScriptedResponse) else list(value)


def _target(name: str, changes: dict[str, Any]) -> Target:
    """`fast` is a worker, so that a route's min_confidence holds for it; the others are not."""
    plain = Target(
        name=name,
        kind=Kind.WORKER if name in ("fast", "careful") else Kind.OPENAI,
        url=f"http://{name}",
        model=name,
        location="external" if name == "quality" else "in_cluster",
    )
    return replace(plain, **changes)


def hang(scene: Any) -> Any:
    """The deadline of a call uses real time, the time left uses the manual clock: advance both."""

    async def sleep(_: float) -> None:
        scene.clock.time_s += 5
        await asyncio.sleep(5)

    return sleep


def in_flight(scene: Any) -> int:
    return sum(scene.state._in_flight.values())
