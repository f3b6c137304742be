"""`twolane quality`: SmolLM2-135M-Instruct with llama.cpp's OpenAI-compatible server, a placeholder for your own model.

`twolane.weights` finds or downloads the weights.
"""

import importlib.util
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twolane.process.errors import WRONG_USE
from twolane.process.flags import OneLineParser, WrongUseError, port_is_free, whole_number
from twolane.weights import WeightsUnavailableError, ensure_weights

MODEL_ID = "smollm2"
DEFAULT_PORT = 8002


@dataclass(frozen=True, slots=True, kw_only=True)
class QualitySettings:
    """Address, CPU threads, concurrent requests (`slots`), and context per request."""

    host: str
    port: int
    threads: int
    slots: int
    context_tokens: int
    default_max_tokens: int


def main(argv: Sequence[str]) -> int:
    """Serve until SIGTERM or ctrl-C. Returns 0 then, 2 if it cannot start (one line on stderr)."""
    settings = _parse(argv)
    try:
        check(settings)
        weights = ensure_weights(lambda line: print(line, file=sys.stderr, flush=True))
        stopped = _stop_on_signals()
        server = start(settings, weights)
    except KeyboardInterrupt:  # during the download
        return 0
    except (WrongUseError, WeightsUnavailableError) as cause:
        print(f"twolane quality: {cause}", file=sys.stderr)
        return WRONG_USE
    print(f"twolane quality: {MODEL_ID} at {server.listening_address}", flush=True)
    stopped.wait()
    return 0


def check(settings: QualitySettings) -> None:
    """Raise WrongUseError if a package is missing or the port is in use, before anything is downloaded."""
    if importlib.util.find_spec("xllamacpp") is None:
        raise WrongUseError("the package xllamacpp is missing: pip install 'twolane[demo]'")
    if not port_is_free(settings.host, settings.port):
        raise WrongUseError(f"port {settings.port} of {settings.host} is in use; choose another with --port")


def start(settings: QualitySettings, weights: Path) -> Any:
    """Load the weights and listen; the server stops when the returned `xllamacpp.Server` is garbage-collected.

    Raises WrongUseError if the weights cannot be loaded.
    """
    import xllamacpp

    try:
        return xllamacpp.Server(_llama_params(xllamacpp.CommonParams(), weights, settings))
    except RuntimeError as cause:
        address = f"{settings.host}:{settings.port}"
        raise WrongUseError(f"llama.cpp failed to start on {address} with {weights.name}: {cause}") from None


def _parse(argv: Sequence[str]) -> QualitySettings:
    parser = OneLineParser(
        prog="twolane quality", description="Serve SmolLM2-135M on loopback, with an OpenAI-compatible API."
    )
    parser.add_address(default_port=DEFAULT_PORT)
    # One thread by default: llama.cpp's threads synchronise at spinning barriers, and on a busy machine a second
    # thread made generation ten times slower.
    parser.add_argument(
        "--threads", type=whole_number(1), default=1, metavar="N", help="CPU threads (default: %(default)s)"
    )
    parser.add_argument(
        "--slots", type=whole_number(1), default=2, metavar="N", help="concurrent requests (default: %(default)s)"
    )
    parser.add_argument(
        "--context",
        type=whole_number(64),
        default=2048,
        metavar="N",
        help="context length of each request, in tokens (default: %(default)s)",
    )
    parser.add_argument(
        "--max-tokens",
        type=whole_number(1),
        default=256,
        metavar="N",
        help="default max_tokens of requests (default: %(default)s)",
    )
    parsed = parser.parse_args(argv)
    return QualitySettings(
        host=parsed.host,
        port=parsed.port,
        threads=parsed.threads,
        slots=parsed.slots,
        context_tokens=parsed.context,
        default_max_tokens=parsed.max_tokens,
    )


def _llama_params(params: Any, weights: Path, settings: QualitySettings) -> Any:
    """Fill llama.cpp's parameter object; parameters not set here keep llama.cpp's defaults."""
    params.model.path = str(weights)
    params.model_alias = {MODEL_ID}
    params.hostnames = [settings.host]
    params.port = settings.port
    params.n_parallel = settings.slots
    params.n_ctx = settings.context_tokens * settings.slots  # llama.cpp divides the context among its slots
    params.n_predict = settings.default_max_tokens
    params.cpuparams.n_threads = settings.threads
    params.cpuparams_batch.n_threads = settings.threads
    params.n_threads_http = settings.slots + 4  # a running request holds its thread; health checks need a free one
    params.fit_params = False  # no fitting to the free memory of a GPU
    params.offline = True
    params.ui = False
    params.endpoint_slots = False
    params.cors_origins = "null"  # no web page may read responses
    params.cache_ram_mib = 0
    params.verbosity = 0
    return params


def _stop_on_signals() -> threading.Event:
    """Return an event that SIGTERM and SIGINT set, also while the weights are loading."""
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    return stopped
