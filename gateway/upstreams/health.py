"""Health of one worker process: polled about once a second, and updated by every response in between.

Reads the worker's `/health` and `/v1/models`.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import inf
from typing import Final, TypeVar

import aiohttp
import msgspec

from gateway.enums import Capability, Grade, Residency
from gateway.errors import AttemptFailed, NotResident, UpstreamAuth
from gateway.types import Capabilities, Status

POLL_S: Final = 1.0
_POLLS_PER_MODELS_REFRESH: Final = 30  # polls
_MAX_BYTES: Final = 1 << 20
WAIT_HEADER: Final = "x-twolane-worker-predicted-wait-ms"
_CAPABILITIES: Final = frozenset(Capability)
_GRADES: Final = frozenset(Grade)
_RESIDENCIES: Final = frozenset(Residency)
WORKER_FIELDS: Final = frozenset({"chat_template_kwargs"})  # the worker refuses what its template does not support


class _Health(msgspec.Struct):
    state: str = ""
    predicted_wait_ms: float | None = None


class _Extension(msgspec.Struct):
    aliases: list[str] = []
    capabilities: dict[str, bool | str | None] | None = None
    context_length: int | None = None


class _Model(msgspec.Struct):
    id: str
    twolane: _Extension | None = None


class _Listing(msgspec.Struct):
    data: list[_Model] = []


_Kind = TypeVar("_Kind", _Health, _Listing)


class HealthPoller:
    """Run `run` in a task. `on_return` is called when an unreachable worker responds again, `key` for the
    key of each poll."""

    def __init__(
        self,
        url: str,
        session: aiohttp.ClientSession,
        *,
        key: Callable[[], str] = str,
        on_return: Callable[[], None],
        timeout_s: float = 1.0,
    ) -> None:
        self._url = url
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._key = key
        self._session = session
        self._on_return = on_return
        self._status = Status()
        self._timed_out_polls = 0  # consecutive polls that timed out
        self._capabilities: dict[str, Capabilities] = {}
        self._statuses: dict[str, Status] = {}

    def status_of(self, model: str) -> Status:
        """Residency and predicted wait of the process, with the capabilities of the model."""
        return self._statuses.get(model, self._status)

    def record_response(self, headers: Mapping[str, str]) -> None:
        """A response shows that the worker is up, and its header carries the predicted wait of the next request."""
        residency = Residency.DEGRADED if self._status.residency is Residency.DEGRADED else Residency.READY
        self._update(residency, _wait_ms(headers.get(WAIT_HEADER)))

    def record_failure(self, fault: AttemptFailed) -> None:
        """A `not_resident` failure marks the worker cold until the next poll; the breaker handles other failures."""
        if isinstance(fault, NotResident):
            self._update(Residency.COLD, None)

    async def run(self) -> None:
        """Poll until cancelled."""
        polls = 0
        while True:
            models_due = polls % _POLLS_PER_MODELS_REFRESH == 0 or not self._capabilities
            if await self.poll(models=models_due):
                polls += 1
            await asyncio.sleep(POLL_S)

    async def poll(self, *, models: bool) -> bool:
        """Poll once. Returns False if the worker did not respond."""
        was_unreachable = self._status.residency is Residency.UNREACHABLE
        try:
            health = _read(await self._get("/health"), _Health)
            if models or was_unreachable:
                self._capabilities = read_models(await self._get("/v1/models"))
        except TimeoutError:  # one timeout may be a load spike, two mean that the process hangs
            self._timed_out_polls += 1
            if self._timed_out_polls > 1:
                self._update(Residency.UNREACHABLE, None)
            return False
        except (aiohttp.ClientError, OSError, ValueError):  # aiohttp raises ValueErrors for some invalid responses
            self._update(Residency.UNREACHABLE, None)
            return False
        except UpstreamAuth:  # the key cannot be sent; a call says so
            return False
        self._timed_out_polls = 0
        self._update(_residency(health.state), health.predicted_wait_ms)
        return True

    def _update(self, residency: Residency, predicted_wait_ms: float | None) -> None:
        was_unreachable = self._status.residency is Residency.UNREACHABLE
        self._status = Status(residency=residency, predicted_wait_ms=predicted_wait_ms)
        self._statuses = {model: replace(self._status, capabilities=own) for model, own in self._capabilities.items()}
        if was_unreachable and residency in (Residency.READY, Residency.DEGRADED):
            self._on_return()

    async def _get(self, path: str) -> bytes:
        """The body, whatever the status: a worker that is not ready responds with 503 and a body."""
        headers = {"authorization": f"Bearer {key}"} if (key := self._key()) else {}
        body = bytearray()
        async with self._session.get(self._url + path, headers=headers, timeout=self._timeout) as response:
            async for part in response.content.iter_any():
                body += part
                if len(body) > _MAX_BYTES:
                    raise aiohttp.ClientPayloadError(f"more than {_MAX_BYTES} bytes")
        return bytes(body)


def read_models(listing: bytes) -> dict[str, Capabilities]:
    """Capabilities by model id and alias. Unknown capabilities of a newer worker are ignored."""
    found: dict[str, Capabilities] = {}
    for entry in _read(listing, _Listing).data:
        if entry.twolane is not None and entry.twolane.capabilities is not None:
            capabilities = replace(
                _capabilities(entry.twolane.capabilities), context_length=entry.twolane.context_length
            )
            found.update(dict.fromkeys([entry.id, *entry.twolane.aliases], capabilities))
    return found


def _capabilities(published: Mapping[str, bool | str | None]) -> Capabilities:
    """Each published capability has the value true, false or a grade."""
    granted = {
        name: grade for name, grade in published.items() if name in _CAPABILITIES and grade not in (False, None, "none")
    }
    return Capabilities(
        supported=frozenset(Capability(name) for name in granted),
        json_schema=_grade(granted.get("json_schema")),
        tools=_grade(granted.get("tools")),
        prediction=_grade(granted.get("prediction")),
        fields=WORKER_FIELDS,
    )


def _grade(value: bool | str | None) -> Grade:
    return Grade(value) if value in _GRADES else Grade.BEST_EFFORT if value else Grade.NONE


def _residency(state: str) -> Residency:
    return Residency(state) if state in _RESIDENCIES else Residency.UNKNOWN


def _read(data: bytes, kind: type[_Kind]) -> _Kind:
    """Decode what is valid; malformed data yields the default record."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return kind()


def _wait_ms(value: str | None) -> float | None:
    try:
        wait_ms = float(value or "")
    except ValueError:
        return None
    return wait_ms if 0 <= wait_ms < inf else None  # a NaN would compare as too long for every request
