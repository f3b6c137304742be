"""What is known of one worker process: polled about once a second, and learnt from every call in between.

Knows the worker's `/health` and `/v1/models`, not who asks or why.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, TypeVar

import aiohttp
import msgspec

from gateway.enums import Capability, Grade, Residency
from gateway.errors import AttemptFailed, NotResident
from gateway.types import Capabilities, Status

POLL_S: Final = 1.0
_MODELS_EVERY: Final = 30  # polls
WAIT_HEADER: Final = "x-twolane-worker-predicted-wait-ms"
_KNOWN: Final = frozenset(Capability)
_GRADES: Final = frozenset(Grade)
_STATES: Final = frozenset(Residency)


class _Health(msgspec.Struct):
    state: str = ""
    predicted_wait_ms: float | None = None


class _Extension(msgspec.Struct):
    aliases: list[str] = []
    capabilities: dict[str, bool | str | None] | None = None


class _Model(msgspec.Struct):
    id: str
    twolane: _Extension | None = None


class _Listing(msgspec.Struct):
    data: list[_Model] = []


_Kind = TypeVar("_Kind", _Health, _Listing)


class HealthPoller:
    """Start with `run` in a task. `on_return` is called when a worker that was away answers again."""

    def __init__(
        self,
        url: str,
        session: aiohttp.ClientSession,
        *,
        key: str = "",
        on_return: Callable[[], None],
        timeout_s: float = 1.0,
    ) -> None:
        self._url = url
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._session = session
        self._on_return = on_return
        self._status = Status()
        self._silences = 0  # polls in a row that nobody answered
        self._capabilities: dict[str, Capabilities] = {}
        self._statuses: dict[str, Status] = {}

    def status_of(self, model: str) -> Status:
        """Residency and wait are the process's, capabilities the model's."""
        return self._statuses.get(model, self._status)

    def learn_answer(self, headers: Mapping[str, str]) -> None:
        """A worker that answers is there, and says how long the next one would wait."""
        residency = Residency.DEGRADED if self._status.residency is Residency.DEGRADED else Residency.READY
        self._learn(residency, _number(headers.get(WAIT_HEADER)))

    def learn_fault(self, fault: AttemptFailed) -> None:
        """A refusal for want of weights holds until the next poll says otherwise; other faults are the breaker's."""
        if isinstance(fault, NotResident):
            self._learn(Residency.COLD, None)

    async def run(self) -> None:
        """Poll for ever; ends by cancellation only."""
        polls = 0
        while True:
            models_due = polls % _MODELS_EVERY == 0 or not self._capabilities
            if await self.poll(models=models_due):
                polls += 1
            await asyncio.sleep(POLL_S)

    async def poll(self, *, models: bool) -> bool:
        """Ask once. False if nobody answered."""
        was_away = self._status.residency is Residency.UNREACHABLE
        try:
            health = _read(await self._get("/health"), _Health)
            if models or was_away:
                self._capabilities = read_models(await self._get("/v1/models"))
        except TimeoutError:  # once may be a busy moment, twice is a process that hangs
            self._silences += 1
            if self._silences > 1:
                self._learn(Residency.UNREACHABLE, None)
            return False
        except (aiohttp.ClientError, OSError):
            self._learn(Residency.UNREACHABLE, None)
            return False
        self._silences = 0
        self._learn(_residency(health.state), health.predicted_wait_ms)
        return True

    def _learn(self, residency: Residency, predicted_wait_ms: float | None) -> None:
        was_away = self._status.residency is Residency.UNREACHABLE
        self._status = Status(residency=residency, predicted_wait_ms=predicted_wait_ms)
        self._statuses = {model: replace(self._status, capabilities=own) for model, own in self._capabilities.items()}
        if was_away and residency in (Residency.READY, Residency.DEGRADED):
            self._on_return()

    async def _get(self, path: str) -> bytes:
        """A body is read whatever the status: a worker that is not ready says so with 503."""
        async with self._session.get(self._url + path, headers=self._headers, timeout=self._timeout) as response:
            return await response.read()


def read_models(listing: bytes) -> dict[str, Capabilities]:
    """Capabilities by model id and alias; words of a newer worker that we do not know are left out."""
    found: dict[str, Capabilities] = {}
    for entry in _read(listing, _Listing).data:
        if entry.twolane is not None and entry.twolane.capabilities is not None:
            capabilities = _capabilities(entry.twolane.capabilities)
            found.update(dict.fromkeys([entry.id, *entry.twolane.aliases], capabilities))
    return found


def _capabilities(words: Mapping[str, bool | str | None]) -> Capabilities:
    """Each word with true, false or a grade."""
    granted = {word: grade for word, grade in words.items() if word in _KNOWN and grade not in (False, None, "none")}
    return Capabilities(
        supported=frozenset(Capability(word) for word in granted),
        json_schema=_grade(granted.get("json_schema")),
        tools=_grade(granted.get("tools")),
        prediction=_grade(granted.get("prediction")),
    )


def _grade(value: bool | str | None) -> Grade:
    return Grade(value) if value in _GRADES else Grade.BEST_EFFORT if value else Grade.NONE


def _residency(state: str) -> Residency:
    return Residency(state) if state in _STATES else Residency.UNKNOWN


def _read(data: bytes, kind: type[_Kind]) -> _Kind:
    """Whatever stands there, as far as it makes sense; nonsense tells nothing."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return kind()


def _number(value: str | None) -> float | None:
    try:
        return float(value or "")
    except ValueError:
        return None
