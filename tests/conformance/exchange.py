"""One request to an API and its answer, as bytes on the wire, for rules that look at nothing else."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import aiohttp

DONE: Final = "[DONE]"


@dataclass(frozen=True)
class Ask:
    """A request. `kind` says which rules apply to its answer, and `of` names the same request without `stream`."""

    kind: str
    path: str
    body: Mapping[str, Any] = field(default_factory=dict)
    raw: bytes | None = None  # instead of the body
    method: str = "POST"
    of: "Ask | None" = None

    @property
    def is_stream(self) -> bool:
        """Whether events are expected."""
        return bool(self.body.get("stream"))

    @property
    def content(self) -> bytes:
        """What is sent."""
        return json.dumps(self.body).encode() if self.raw is None else self.raw


@dataclass(frozen=True)
class Exchange:
    """`whole` is the answer to the same request without `stream`."""

    ask: Ask
    status: int
    headers: Mapping[str, str]
    data: bytes
    whole: "Exchange | None" = None

    @cached_property
    def document(self) -> Any:
        """The JSON of the answer."""
        return json.loads(self.data)

    @cached_property
    def frames(self) -> list[tuple[str, str]]:
        """The name and the data of every event, comments left out."""
        assert self.data.endswith(b"\n\n")
        blocks = [block for block in self.data.decode().split("\n\n") if block]
        return [frame for block in blocks if (frame := _frame(block.split("\n"))) is not None]

    @cached_property
    def events(self) -> list[Any]:
        """The JSON of every event but `[DONE]`."""
        return [json.loads(data) for _, data in self.frames if data != DONE]


def _frame(lines: list[str]) -> tuple[str, str] | None:
    fields = [line.partition(": ")[::2] for line in lines if not line.startswith(":")]
    assert all(name in ("event", "data") for name, _ in fields)
    found = dict(fields)
    assert len(found) == len(fields)
    return (found.get("event", ""), found["data"]) if found else None


async def exchange(client: aiohttp.ClientSession, url: str, ask: Ask) -> Exchange:
    """Send the request. The answer without `stream` comes from a request of its own."""
    headers = {"content-type": "application/json", "authorization": "Bearer none"}
    async with client.request(ask.method, url + ask.path, data=ask.content, headers=headers) as answer:
        data = await answer.read()
        lowered = {name.lower(): value for name, value in answer.headers.items()}
    whole = await exchange(client, url, ask.of) if ask.of is not None else None
    return Exchange(ask, answer.status, lowered, data, whole)


def deltas_of(exchange: Exchange, index: int) -> Iterator[Any]:
    """What a stream of chunks adds to one choice."""
    for event in exchange.events:
        for choice in event["choices"]:
            if choice["index"] == index:
                yield choice
