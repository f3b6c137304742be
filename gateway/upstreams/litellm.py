"""The door to providers that speak their own tongue, through litellm: one library, loaded when first needed, aside.

litellm takes seconds to import and milliseconds a call, so all of it runs on an event loop of its own. Its retries,
caches, callbacks, logs and telemetry are off: what an attempt is, and how many there are, is decided here. It is an
extra; the policy loader refuses `kind: litellm` where it is not installed.
"""

import asyncio
import contextlib
import gc
import importlib
import logging
import os
import sys
from collections.abc import AsyncGenerator, Iterator
from typing import Any, Final

from gateway.errors import UpstreamError
from gateway.types import Call, Delta, Status, Target
from gateway.upstreams.background_loop import BackgroundLoop
from gateway.upstreams.litellm_calls import arguments_for, deltas_of, fault_of, hang_up
from gateway.upstreams.openai import key_of

_STATUS: Final = Status()
_SWITCH_S: Final = 0.0005  # a tenth of the usual: how long a thread may be waited for
# Read by litellm when it is imported: no price list from the network, no `.env` of whatever folder this runs in.
_ENVIRONMENT: Final = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION"}
_LOGGERS: Final = ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy")  # they may quote prompts
_SETTINGS: Final[dict[str, Any]] = {
    "telemetry": False,
    "suppress_debug_info": True,
    "turn_off_message_logging": True,
    "cache": None,
    "num_retries": None,
    "drop_params": False,
    "modify_params": False,
    "disable_hf_tokenizer_download": True,
    "callbacks": [],
    "input_callback": [],
    "success_callback": [],
    "failure_callback": [],
    "service_callback": [],
}


class Library:
    """litellm, once for the whole gateway. `load` returns at once; whoever needs it before it is there waits."""

    def __init__(self) -> None:
        self.aside = BackgroundLoop("providers")
        self._loading: asyncio.Task[Any] | None = None

    def load(self) -> None:
        """Begin to load."""
        if self._loading is None:
            self._loading = asyncio.create_task(self.aside.run(_load()), name="load litellm")

    async def loaded(self) -> Any:
        """The module; use it aside only. Raises UpstreamError if it cannot be imported."""
        self.load()
        assert self._loading is not None
        try:
            return await asyncio.shield(self._loading)
        except ImportError as fault:
            raise UpstreamError("litellm cannot be imported.", detail=type(fault).__name__) from fault

    async def aclose(self) -> None:
        """End all calls, close its connections, end the thread."""
        if self._loading is not None:
            self._loading.cancel()
            with contextlib.suppress(asyncio.CancelledError, ImportError):
                litellm = await self._loading  # where it came to be, it keeps its connections for ever
                await self.aside.run(litellm.close_litellm_async_clients())
        await self.aside.aclose()


class LiteLLMUpstream:
    """An Upstream for `kind: litellm`; its capabilities are the policy's word."""

    def __init__(self, target: Target, library: Library, *, idle_s: float) -> None:
        self._key = key_of(target)
        self._library = library
        self._idle_s = idle_s
        library.load()

    @property
    def status(self) -> Status:
        """Nothing is known without asking."""
        return _STATUS

    async def send(self, call: Call) -> "LiteLLMReply":
        """See `ports.Upstream`."""
        arguments = arguments_for(call, key=self._key, idle_s=self._idle_s)
        litellm = await self._library.loaded()
        answer = await self._library.aside.run(_complete(litellm, arguments))
        return LiteLLMReply(self._library.aside, answer, deltas_of(litellm, call.target.model, answer))

    async def aclose(self) -> None:
        """The library is the gateway's."""


class LiteLLMReply:
    """See `ports.UpstreamResponse`."""

    def __init__(self, aside: BackgroundLoop, answer: Any, source: AsyncGenerator[Delta, None]) -> None:
        self._aside = aside
        self._answer = answer
        self._deltas = aside.iterate(source)

    def deltas(self) -> AsyncGenerator[Delta, None]:
        """See `ports.UpstreamResponse`."""
        return self._deltas

    async def aclose(self) -> None:
        """Hangs up unless the answer was read to its end."""
        await self._deltas.aclose()
        await self._aside.run(hang_up(self._answer))


@contextlib.contextmanager
def _gently() -> Iterator[None]:
    """Be quick to let the other thread's loop have its turn, which serves meanwhile.

    An import makes a million objects. The collector would walk through all of them again and again, holding the
    interpreter's lock for half a second (docs/log.md); what is there in the end stays, so it need not be walked at all.
    """
    interval_s, collects = sys.getswitchinterval(), gc.isenabled()
    sys.setswitchinterval(_SWITCH_S)
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collects:
            gc.enable()
        sys.setswitchinterval(interval_s)


async def _load() -> Any:
    with _gently():
        return await _loaded()


async def _loaded() -> Any:
    os.environ.update(_ENVIRONMENT)
    litellm = importlib.import_module("litellm")
    for name, value in _SETTINGS.items():
        setattr(litellm, name, value)
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    for stream in (False, True):  # what it builds when first called is built now: an answer made up without any call
        turn = {"role": "user", "content": "."}
        answer = await litellm.acompletion(model="openai/none", messages=[turn], mock_response=".", stream=stream)
        await hang_up(answer)
    return litellm


async def _complete(litellm: Any, arguments: dict[str, Any]) -> Any:
    try:
        return await litellm.acompletion(**arguments)
    except Exception as fault:  # litellm raises a class of its own for nearly everything, and anything for the rest
        raise fault_of(fault) from fault
