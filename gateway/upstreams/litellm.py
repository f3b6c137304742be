"""Upstream client for providers with their own API, through litellm: imported when first needed, on a background
event loop.

Importing litellm takes seconds and a call takes milliseconds of CPU time, so all of it runs on an event loop of its
own. Its retries, caches, callbacks, logs and telemetry are off: the gateway decides what an attempt is and how many
are made. litellm is an optional dependency; the policy loader refuses `kind: litellm` where it is not installed.
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
from gateway.types import Call, Delta, Status
from gateway.upstreams.answers.kept_bytes import keep_bytes
from gateway.upstreams.background_loop import BackgroundLoop
from gateway.upstreams.keys import TargetKey
from gateway.upstreams.litellm_calls import arguments_for, close_stream, deltas_of, fault_of, provider_parameters

_STATUS: Final = Status()
_SWITCH_INTERVAL_S: Final = 0.0005  # a tenth of the default
# Read by litellm at import: no price list from the network, no `.env` of the working directory.
_ENVIRONMENT: Final = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION"}
_LOGGERS: Final = ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy")  # their records may contain prompts
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


class LiteLLMLibrary:
    """litellm, imported once per gateway. `load` returns at once; callers of `loaded` wait for the import."""

    def __init__(self) -> None:
        self.background = BackgroundLoop("providers")
        self._loading: asyncio.Task[Any] | None = None

    def load(self) -> None:
        """Start the import."""
        if self._loading is None:
            self._loading = asyncio.create_task(self.background.run(_import_gently()), name="load litellm")

    async def loaded(self) -> Any:
        """The module; call it on the background loop only. Raises UpstreamError if it cannot be imported."""
        self.load()
        assert self._loading is not None
        try:
            return await asyncio.shield(self._loading)
        except ImportError as fault:
            raise UpstreamError(
                "The package litellm cannot be imported: pip install 'twolane[providers]'", detail=type(fault).__name__
            ) from fault

    async def aclose(self) -> None:
        """Cancel all calls, close litellm's connections, end the thread."""
        if self._loading is not None:
            self._loading.cancel()
            with contextlib.suppress(asyncio.CancelledError, ImportError):
                litellm = await self._loading  # once imported, it never closes its connections itself
                await self.background.run(litellm.close_litellm_async_clients())
        await self.background.aclose()


class LiteLLMUpstream:
    """An Upstream for `kind: litellm`. The policy states its capabilities."""

    def __init__(self, library: LiteLLMLibrary, key: TargetKey) -> None:
        self._key = key
        self._library = library
        self._takes: frozenset[str] | None = None  # the provider's parameters, once litellm is loaded; empty: unknown
        library.load()

    @property
    def status(self) -> Status:
        """Providers publish no status."""
        return _STATUS

    async def send(self, call: Call) -> "LiteLLMReply":
        """See `ports.Upstream`."""
        litellm = await self._library.loaded()
        model = call.target.model
        if self._takes is None:
            self._takes = provider_parameters(litellm, model) or frozenset()
        arguments = arguments_for(call, key=self._key.value, provider_takes=self._takes or None)
        response = await self._library.background.run(_complete(litellm, arguments))
        deltas = self._library.background.iterate(deltas_of(litellm, model, response))
        return LiteLLMReply(self._library.background, response, deltas, is_whole=not call.query.stream)

    async def aclose(self) -> None:
        """Nothing to close: the library is shared."""


class LiteLLMReply:
    """See `ports.UpstreamResponse`."""

    def __init__(
        self, background: BackgroundLoop, response: Any, deltas: AsyncGenerator[Delta, None], *, is_whole: bool
    ) -> None:
        self._background = background
        self._response = response
        self._deltas = deltas
        self._is_whole = is_whole

    async def deltas(self) -> AsyncGenerator[Delta, None]:
        """See `ports.UpstreamResponse`."""
        async for delta in self._deltas:
            if self._is_whole:
                keep_bytes(len(delta.data))
            yield delta

    async def aclose(self) -> None:
        """Closes the connection unless the response was read to its end."""
        await self._deltas.aclose()
        await self._background.run(close_stream(self._response))


@contextlib.contextmanager
def _yielding_import() -> Iterator[None]:
    """Reduce the time that the import blocks the main loop.

    An import creates about a million objects. The garbage collector would traverse all of them repeatedly while
    holding the interpreter lock for half a second (docs/log.md). The objects live to the end of the process, so
    they are frozen instead.
    """
    interval_s, collects = sys.getswitchinterval(), gc.isenabled()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collects:
            gc.enable()
        sys.setswitchinterval(interval_s)


async def _import_gently() -> Any:
    with _yielding_import():
        return await _import_litellm()


async def _import_litellm() -> Any:
    os.environ.update(_ENVIRONMENT)
    litellm = importlib.import_module("litellm")
    for name, value in _SETTINGS.items():
        setattr(litellm, name, value)
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    for stream in (False, True):  # warm-up: builds litellm's lazy state with a mock response, without any network call
        message = {"role": "user", "content": "."}
        response = await litellm.acompletion(model="openai/none", messages=[message], mock_response=".", stream=stream)
        await close_stream(response)
    return litellm


async def _complete(litellm: Any, arguments: dict[str, Any]) -> Any:
    try:
        return await litellm.acompletion(**arguments)
    except Exception as fault:  # litellm wraps most errors in its own classes and lets any other pass
        raise fault_of(fault) from fault
