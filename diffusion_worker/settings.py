"""How this process is set up: one frozen record, read once from flags and `TWOLANE_WORKER_*` variables.

A flag wins over its variable. A wrong value, and a variable that means nothing here, refuse to start by name. Knows no
web and no engine; `cli` shows the list and `app` puts the values to use.
"""

import argparse
import difflib
import ipaddress
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

from diffusion_worker.errors import BadSetting

PREFIX = "TWOLANE_WORKER_"


def _setting(explanation: str, read: Callable[[str], Any], **options: Any) -> Any:
    return field(metadata={"explanation": explanation, "read": read}, **options)


def _whole(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise ValueError(f"{text!r} is not a whole number") from None
        if not low <= value <= high:
            raise ValueError(f"{value} is not between {low} and {high}")
        return value

    return read


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number of seconds") from None
    if not 0.0 <= value <= 3600.0:
        raise ValueError(f"{text} is not between 0 and 3600 seconds")
    return value


def _word(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty")
    return text


def _one_of(*words: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"{text!r} is not one of {', '.join(words)}")
        return text

    return read


def _device(text: str) -> str:
    if text != "auto" and not re.fullmatch(r"(cpu|cuda|xpu|mps)(:\d+)?", text):
        raise ValueError(f"{text!r} is neither auto nor a device such as cpu or cuda:0")
    return text


def _device_map(text: str) -> str | Mapping[str, str | int]:
    words = ("auto", "balanced", "balanced_low_0", "sequential")
    if text in words:
        return text
    try:
        placed = json.loads(text)
    except ValueError:
        placed = None
    if not isinstance(placed, dict) or not placed or not all(type(place) in (str, int) for place in placed.values()):
        raise ValueError(f"{text!r} is neither one of {', '.join(words)} nor a JSON object of modules and devices")
    return placed


def _switch(text: str) -> bool:
    words = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in words:
        raise ValueError(f"{text!r} is neither true nor false")
    return words[text.lower()]


def _path(text: str) -> Path:
    return Path(_word(text))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be set. Raises BadSetting where two values do not fit together."""

    checkpoint: str = _setting(
        "folder or hub ID of the weights, or twolane-tiny for the packaged small checkpoint", _word
    )
    name: str | None = _setting("model id to serve it under; the folder's name if absent", _word, default=None)
    host: str = _setting("address to listen on; other than loopback needs a keys file", _word, default="127.0.0.1")
    port: int = _setting("port to listen on; 0 takes a free one", _whole(0, 65535), default=8001)
    admin_host: str = _setting("address of the admin surface, as for --host", _word, default="127.0.0.1")
    admin_port: int | None = _setting(
        "port to load, unload and look at the worker on; 0 takes a free one, absent: there is none",
        _whole(0, 65535),
        default=None,
    )
    cold: bool = _setting("start without weights; they come when asked for on the admin port", _switch, default=False)
    keys_file: Path | None = _setting(  # noqa: RUF009 - it is a field
        "who may ask: lines of `name sha256:<hex of the key>`", _path, default=None
    )
    max_num_seqs: int = _setting("requests that advance together", _whole(1, 1024), default=8)
    max_waiting: int = _setting("requests that may wait for a place before 429", _whole(0, 100_000), default=64)
    max_body_bytes: int = _setting("largest request body", _whole(1024, 2**31), default=4 * 2**20)
    memory_limit_bytes: int = _setting(
        "bytes for weights and context together; 0: what the device has", _whole(0, 2**50), default=0
    )
    max_context: int = _setting(
        "tokens of prompt and answer together; 0: as many as the net knows", _whole(0, 2**30), default=0
    )
    prefix_slots: int = _setting(
        "contexts kept for requests that begin alike, as far as they fit", _whole(0, 100_000), default=8
    )
    prefill_chunk: int = _setting("prompt tokens that one request adds in a step", _whole(1, 2**20), default=512)
    max_step_tokens: int = _setting(
        "positions of a step, all requests together; 0: no limit", _whole(0, 2**30), default=0
    )
    exact: bool = _setting(
        "the same request and seed give the same bytes in any company; slower", _switch, default=False
    )
    threads: int = _setting("CPU threads of a forward pass; 0 leaves the choice to torch", _whole(0, 1024), default=0)
    device: str = _setting("where the weights live: auto, cpu, cuda, cuda:1, …", _device, default="auto")
    device_map: str | Mapping[str, str | int] | None = _setting(
        "where which module lives, in transformers' words: auto, …, or a JSON object of modules and devices",
        _device_map,
        default=None,
    )
    dtype: str = _setting(
        "number format of the weights; auto: as stored",
        _one_of("auto", "float32", "bfloat16", "float16"),
        default="auto",
    )
    experts: str = _setting("transformers' implementation of the experts; auto: the fastest", _word, default="auto")
    quantised: str = _setting(
        "quantised weights: keep them, or unpack them to plain ones while loading",
        _one_of("keep", "unpack"),
        default="keep",
    )
    constraint_cache: Path | None = _setting(  # noqa: RUF009 - it is a field
        "folder that keeps compiled schemas between runs, at most 512 MiB; absent: they are kept in memory only",
        _path,
        default=None,
    )
    log: str = _setting(
        "plain: what went wrong, as text; json: that, and a line per request, as JSON on stderr",
        _one_of("plain", "json"),
        default="plain",
    )
    drain_s: float = _setting("seconds that running requests get to finish at SIGTERM", _seconds, default=10.0)

    def __post_init__(self) -> None:
        for flag, host in (("--host", self.host), ("--admin-host", self.admin_host)):
            if self.keys_file is None and not _is_loopback(host):
                raise BadSetting(f"{flag} {host}: only a loopback address may be used without --keys-file")
        if self.cold and self.admin_port is None:
            raise BadSetting("--cold: without --admin-port nobody could ask for the weights")
        if self.device_map is not None and self.device != "auto":
            raise BadSetting(f"--device {self.device}: --device-map says where the weights live")

    @property
    def model(self) -> str:
        """The id the diffusion reading is served under: the name, else the last part of the checkpoint's place."""
        return self.name or Path(self.checkpoint).resolve().name


def read_settings(arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> Settings:
    """Flags over variables over defaults. Raises BadSetting; `--help` prints the list and raises SystemExit(0)."""
    environment = os.environ if environment is None else environment
    flags = vars(_parser().parse_args(arguments))
    _refuse_unknown(environment)
    values: dict[str, Any] = {}
    for setting in fields(Settings):
        variable = PREFIX + setting.name.upper()
        if setting.name in flags:
            values[setting.name] = _read(_flag(setting.name), setting.metadata["read"], flags[setting.name])
        elif variable in environment:
            values[setting.name] = _read(variable, setting.metadata["read"], environment[variable])
        elif setting.default is MISSING:
            raise BadSetting(f"{_flag(setting.name)} (or {variable}) is required: {setting.metadata['explanation']}")
    return Settings(**values)


class _Parser(argparse.ArgumentParser):
    """Argparse that tells its findings in one line, as everything here does."""

    def error(self, message: str) -> NoReturn:
        raise BadSetting(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="twolane worker",
        description="Serve a block-diffusion language model behind OpenAI's API.",
        epilog=f"Every option can also be given as {PREFIX}<NAME> in the environment; the option wins. "
        "--plan CONFIG, instead of serving, prints what a checkpoint would take (--plan CONFIG --help tells more).",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    for setting in fields(Settings):
        default = "required" if setting.default is MISSING else f"default: {setting.default}"
        explanation = f"{setting.metadata['explanation']} [{default}; {PREFIX}{setting.name.upper()}]"
        switch: dict[str, Any] = {"nargs": "?", "const": "true"} if setting.metadata["read"] is _switch else {}
        parser.add_argument(_flag(setting.name), metavar=setting.name.upper(), help=explanation, **switch)
    return parser


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _read(source: str, read: Callable[[str], Any], text: str) -> Any:
    try:
        return read(text)
    except ValueError as error:
        raise BadSetting(f"{source}: {error}") from error


def _refuse_unknown(environment: Mapping[str, str]) -> None:
    """A misspelled variable would otherwise be a silent default."""
    known = [PREFIX + setting.name.upper() for setting in fields(Settings)]
    for variable in sorted(environment):
        if variable.startswith(PREFIX) and variable not in known:
            near = difflib.get_close_matches(variable, known, n=1)
            raise BadSetting(f"{variable} is not a setting" + (f"; did you mean {near[0]}?" if near else ""))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
