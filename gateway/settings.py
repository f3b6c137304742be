"""How this process is set up: one frozen record, read once from `TWOLANE_*` variables and the command line.

A wrong value refuses to start and names itself; so does a variable that looks like a misspelt one.
"""

# ruff: noqa: RUF009 - `_setting` makes a dataclass field

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from gateway.errors import BadSetting

PREFIX: Final = "TWOLANE_"
_REDIS_URL: Final = "REDIS_URL"  # what platforms set by themselves
_NEAR: Final = 0.85  # how alike a misspelt name is; orchestrators set many variables that merely begin alike


def _whole(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise ValueError(f"not between {low} and {high}")
        return value

    return read


def _numbers(text: str) -> tuple[int, ...]:
    numbers = tuple(int(part) for part in text.split(",")) if text else ()
    if len(numbers) not in (0, 3):
        raise ValueError("not three file descriptors")
    return numbers


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= 3600:
        raise ValueError("not between 0 and 3600 seconds")
    return value


def _path(text: str) -> Path | None:
    return Path(text) if text else None


def _secret(text: str) -> str | None:
    return text or None


def _setting(default: Any, read: Callable[[str], Any], says: str) -> Any:
    return field(default=default, repr=read is not _secret, metadata={"read": read, "says": says})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Raises BadSetting where two values do not go together."""

    host: str = _setting("127.0.0.1", str, "address of the public port; others than loopback need a keys file")
    port: int = _setting(8080, _whole(0, 65535), "public port; 0 takes a free one")
    admin_host: str = _setting("127.0.0.1", str, "address of the admin port; others than loopback need a keys file")
    admin_port: int = _setting(8090, _whole(0, 65535), "port of metrics and administration; 0 takes a free one")
    workers: int = _setting(
        1, _whole(1, 256), "processes that serve the same ports; each decides by what it saw itself"
    )
    handed_down: tuple[int, ...] = _setting((), _numbers, "sockets of a parent process; it sets this itself")
    policy: Path = _setting(Path("policies/default.yaml"), Path, "the policy file")
    policy_watch_s: float = _setting(0.5, _seconds, "how often the policy file is looked at for changes")
    keys_file: Path | None = _setting(None, _path, "keys that may ask, `name sha256:<hex>` a line; none: open")
    decision_log: Path | None = _setting(None, _path, "file that gets one JSON line per request; none: no log")
    decision_log_bytes: int = _setting(100_000_000, _whole(0, 1 << 40), "a fuller log is put aside as FILE.1; 0: never")
    decision_log_files: int = _setting(5, _whole(1, 1000), "how many logs that were put aside are kept")
    max_body_bytes: int = _setting(4_194_304, _whole(1024, 1 << 30), "largest request body")
    recent_decisions: int = _setting(1000, _whole(1, 1_000_000), "how many decisions the admin port remembers")
    connect_s: float = _setting(2.0, _seconds, "longest wait for a connection to a target")
    idle_s: float = _setting(60.0, _seconds, "longest silence of a target inside an answer")
    health_timeout_s: float = _setting(
        1.0, _seconds, "longest wait for a worker's health check; after two timeouts in a row it is unreachable"
    )
    redis_url: str | None = _setting(None, _secret, "where replicas share lane state; REDIS_URL stands in; none: alone")
    redis_namespace: str = _setting("twolane", str, "replicas of the same name share; other deployments need another")
    drain_s: float = _setting(10.0, _seconds, "how long requests may finish when the process is told to end")

    def __post_init__(self) -> None:
        for name in ("host", "admin_host"):
            if self.keys_file is None and not _is_loopback(getattr(self, name)):
                variable = PREFIX + name.upper()
                raise BadSetting(f"{variable}: {getattr(self, name)} is not loopback; that needs {PREFIX}KEYS_FILE")


def read_settings(environment: Mapping[str, str], flags: Mapping[str, str]) -> Settings:
    """From the environment; `flags` (by field name) win. Raises BadSetting naming variable or flag."""
    known = {PREFIX + setting.name.upper(): setting for setting in fields(Settings)}
    _refuse_misspelt(environment, list(known))
    values: dict[str, Any] = {}
    for variable, setting in known.items():
        if setting.name in flags:
            values[setting.name] = _read(setting, flags[setting.name], flag_of(setting.name))
        elif variable in environment:
            values[setting.name] = _read(setting, environment[variable], variable)
    if "redis_url" not in values and environment.get(_REDIS_URL):
        values["redis_url"] = environment[_REDIS_URL]
    return Settings(**values)


def describe_settings() -> str:
    """One line per setting, for `--help`."""
    lines = []
    for setting in fields(Settings):
        default = "none" if setting.default in (None, ()) else setting.default
        lines.append(f"  {PREFIX + setting.name.upper():<26}{setting.metadata['says']} ({default})")
    return "\n".join(lines)


def flag_of(name: str) -> str:
    """The command line's spelling of a field."""
    return "--" + name.replace("_", "-")


def _read(setting: Field[Any], text: str, source: str) -> Any:
    try:
        return setting.metadata["read"](text)
    except ValueError as fault:
        raise BadSetting(f"{source}: {text!r} cannot be used: {fault}") from fault


def _refuse_misspelt(environment: Mapping[str, str], known: list[str]) -> None:
    for name in sorted(environment):
        if name.startswith(PREFIX) and not name.startswith(PREFIX + "WORKER_") and name not in known:
            near = get_close_matches(name, known, n=1, cutoff=_NEAR)
            if near:
                raise BadSetting(f"{name}: no such setting; did you mean {near[0]}?")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
