"""Settings of the worker: `TWOLANE_WORKER_*` variables and the flags of `twolane worker`."""

# ruff: noqa: RUF009 - `setting` makes a dataclass field

import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from twolane.process.errors import ConfigurationError
from twolane.process.flags import OneLineParser
from twolane.process.http.limits import KEEP_ALIVE_S
from twolane.process.setting_kinds import SWITCH, Kind, number, one_of, path, seconds, text, whole
from twolane.process.settings import SettingsHelp, SettingsSchema, setting
from twolane.process.sockets import require_keys

PREFIX: Final = "TWOLANE_WORKER_"


def _device(given: str) -> str:
    if given != "auto" and not re.fullmatch(r"cpu|cuda(:\d+)?", given):
        raise ValueError(f"{given!r} is not supported (choose from auto, cpu, cuda and cuda:N)")
    return given


def _device_map(given: str) -> str | Mapping[str, str | int]:
    words = ("auto", "balanced", "balanced_low_0", "sequential")
    if given in words:
        return given
    try:
        placed = json.loads(given)
    except ValueError:
        placed = None
    if not isinstance(placed, dict) or not placed or not all(type(place) in (str, int) for place in placed.values()):
        raise ValueError(f"{given!r} is neither one of {', '.join(words)} nor a JSON object of modules and devices")
    return placed


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Raises ConfigurationError for incompatible values."""

    checkpoint: str = setting(
        text("ID_OR_FOLDER"), "folder of the checkpoint, its id on the Hugging Face hub, or twolane-tiny (packaged)"
    )
    revision: str | None = setting(
        text("REVISION"), "branch, tag or commit of a checkpoint on the hub; if unset, main", default=None
    )
    name: str | None = setting(
        text("NAME"), "model id in the API; if unset, the last part of the checkpoint", default=None
    )
    host: str = setting(
        text("HOST"), "address to listen on; non-loopback addresses require a keys file", default="127.0.0.1"
    )
    port: int = setting(whole(0, 65535), "port to listen on; 0 selects a free one", default=8001)
    admin_host: str = setting(
        text("HOST"), "address of the admin port; non-loopback addresses require a keys file", default="127.0.0.1"
    )
    admin_port: int | None = setting(
        whole(0, 65535), "admin port; disabled if unset; 0 selects a free one", default=None
    )
    cold: bool = setting(SWITCH, "start without weights; POST /admin/load loads them", default=False)
    keys_file: Path | None = setting(
        path(), "API keys, one `name sha256:<hex>` per line; without it no key is required", default=None
    )
    open_metrics: bool = setting(
        SWITCH, "serve /metrics without a key, for endpoint pickers, which cannot send one", default=False
    )
    max_num_seqs: int = setting(whole(1, 1024), "maximum number of sequences in a batch", default=8)
    max_waiting: int = setting(
        whole(0, 100_000), "maximum number of waiting requests; further ones receive 429", default=64
    )
    max_body_bytes: int = setting(whole(1024, 2**31), "maximum size of a request body", default=4 * 2**20)
    max_inflight_bytes: int = setting(
        whole(1024, 2**40),
        "request bodies held in memory at a time; further requests receive 503",
        default=64 * 2**20,
    )
    head_timeout_s: float = setting(seconds(), "time for a client to send the headers of a request", default=20.0)
    body_timeout_s: float = setting(
        seconds(), "time for a client to send a request body, plus 1 s for each 16 KiB", default=20.0
    )
    keep_alive_s: float = setting(seconds(), "time that an idle client connection is kept open", default=KEEP_ALIVE_S)
    write_timeout_s: float = setting(
        seconds(), "disconnect a client that does not read its response for this time", default=60.0
    )
    memory_limit_bytes: int = setting(
        whole(0, 2**50), "memory for weights, KV cache and steps; 0: all memory of the device", default=0
    )
    max_context: int = setting(
        whole(0, 2**30), "maximum tokens of prompt and answer; 0: the longest default that fits, see --plan", default=0
    )
    prefix_slots: int = setting(whole(0, 100_000), "prefix-cache slots", default=8)
    max_prefill_tokens: int = setting(
        whole(1, 2**20), "maximum prompt tokens per step, over all requests", default=2048
    )
    max_step_tokens: int = setting(
        whole(0, 2**30), "maximum positions per step, over all requests; 0: no limit", default=0
    )
    step_timeout_s: float = setting(
        seconds(),
        "exit if a step makes no progress for this time, and for 10 times as long as expected: the device hangs",
        default=300.0,
    )
    exact: bool = setting(
        SWITCH, "bitwise-reproducible results regardless of batching or preemption, at lower throughput", default=False
    )
    threads: int = setting(whole(0, 1024), "CPU threads of a forward pass; 0: the default of torch", default=0)
    device: str = setting(
        Kind(metavar="DEVICE", parse=_device), "device of the weights: auto, cpu, cuda, cuda:1, …", default="auto"
    )
    device_map: str | Mapping[str, str | int] | None = setting(
        Kind(metavar="MAP", parse=_device_map),
        "transformers device_map: auto, …, or a JSON object of modules and devices",
        default=None,
    )
    dtype: str = setting(
        one_of("auto", "float32", "bfloat16", "float16"), "data type of the weights; auto: as stored", default="auto"
    )
    compile: str = setting(
        one_of("auto", "always", "never"),
        "compile the passes at the start, which takes minutes; auto: on a GPU, but not with --exact",
        default="auto",
    )
    experts: str = setting(
        text("NAME"), "transformers experts_implementation; auto: the fastest available", default="auto"
    )
    quantised: str = setting(
        one_of("keep", "unpack"), "keep quantised weights, or unpack them while loading", default="keep"
    )
    entropy_bound: float | None = setting(
        number("NATS", 0.0, 1e6), "entropy that a denoising step may accept; if unset, as the checkpoint", default=None
    )
    confidence_threshold: float | None = setting(
        number("NATS", 0.0, 1e6),
        "mean entropy below which a canvas may stop; if unset, as the checkpoint, also if it is quantised",
        default=None,
    )
    constraint_cache: Path | None = setting(
        path("FOLDER"), "disk cache of compiled schemas, at most 512 MiB; if unset, memory only", default=None
    )
    log: str = setting(one_of("plain", "json"), "log format on stderr; json adds one line per request", default="plain")
    drain_s: float = setting(
        seconds(may_be_zero=True), "time for running requests to finish after SIGTERM", default=310.0
    )

    def __post_init__(self) -> None:
        for name in ("host", "admin_host"):
            if self.keys_file is None:
                flag, variable = SCHEMA.flag(name), SCHEMA.variable(name)
                require_keys(host=getattr(self, name), flag=flag, variable=variable, prefix=PREFIX)
        if self.max_inflight_bytes < self.max_body_bytes:
            raise ConfigurationError(
                f"{SCHEMA.flag('max_inflight_bytes')} {self.max_inflight_bytes}: must be at least"
                f" {SCHEMA.flag('max_body_bytes')}, {self.max_body_bytes}"
            )
        if self.cold and self.admin_port is None:
            raise ConfigurationError("--cold requires --admin-port")
        if self.compile == "always" and self.exact:
            raise ConfigurationError("--compile always: cannot be combined with --exact, whose passes run eager")
        if self.device_map is not None and self.device != "auto":
            raise ConfigurationError(f"--device {self.device}: cannot be combined with --device-map")

    @property
    def thresholds(self) -> dict[str, float]:
        """Denoising thresholds that replace those of the checkpoint, by name."""
        given = {"entropy_bound": self.entropy_bound, "confidence_threshold": self.confidence_threshold}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def model(self) -> str:
        """The model id of diffusion decoding: the name, or the last part of the checkpoint's path."""
        return self.name or Path(self.checkpoint).resolve().name


# Flags of vLLM that ask for what the worker does not do, by a part of their name, and what to do instead.
_FOREIGN: Final = (
    (
        re.compile(r"-?-(tp|pp|dp|ep|dcp|.*parallel.*)"),
        "a worker runs on one device: start one worker per card, each with CUDA_VISIBLE_DEVICES and a port of its own, "
        "and list them under urls: in the policy",
    ),
    (
        re.compile(r"--.*(lora|adapter).*"),
        "LoRA adapters are not supported: merge the adapter into its base model and serve the result",
    ),
    (
        re.compile(r"--(mm-.*|.*(-mm-|multimodal|image|media|video|audio).*)"),
        "images and other media are not supported: requests are text",
    ),
)
SCHEMA: Final = SettingsSchema(
    record=Settings, prefix=PREFIX, retired={f"{PREFIX}PREFILL_CHUNK": f"{PREFIX}MAX_PREFILL_TOKENS"}
)


def refuse_foreign_flags(arguments: Sequence[str], known: Collection[str]) -> None:
    """Refuse flags for tensor parallelism, LoRA adapters and images by name, as vLLM's users write them. Raises
    ConfigurationError."""
    for word in arguments:
        flag = word.split("=")[0].replace("_", "-").lower()
        for pattern, instead in _FOREIGN if flag.startswith("-") and flag not in known else ():
            if pattern.fullmatch(flag):
                raise ConfigurationError(f"{word.split('=')[0]}: {instead}")


def read_settings(arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> Settings:
    """Flags over variables over defaults. Raises ConfigurationError; unknown flags and `--help` raise SystemExit."""
    parser = OneLineParser(
        prog="twolane worker",
        usage="twolane worker --checkpoint ID_OR_FOLDER [OPTIONS]",
        description="Serve a block-diffusion language model behind an OpenAI-compatible API.",
        epilog="Each option can also be set by the environment variable in brackets; the option takes precedence. "
        "--plan CONFIG prints the memory that a checkpoint needs, instead of serving (see --plan CONFIG --help).",
        allow_abbrev=False,
        formatter_class=SettingsHelp,
    )
    refuse_foreign_flags(arguments, known={SCHEMA.flag(name) for name in Settings.__dataclass_fields__})
    SCHEMA.add_flags(parser)
    flags = SCHEMA.flags_in(parser.parse_args(arguments))
    return SCHEMA.read(os.environ if environment is None else environment, flags)
