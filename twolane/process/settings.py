"""Settings of a program: the fields of a frozen dataclass, each read from a flag or an environment variable.

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Settings:
        port: int = setting(whole(0, 65535), "port to listen on", default=8001)

    SCHEMA = SettingsSchema(record=Settings, prefix="TWOLANE_WORKER_")

The flag `--port` takes precedence over the variable `TWOLANE_WORKER_PORT`, and that over the default. Every problem is
a ConfigurationError of one line that names the flag or variable.
"""

import argparse
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from difflib import get_close_matches
from typing import Any, Final, Generic, TypeVar

from twolane.process.errors import ConfigurationError
from twolane.process.setting_kinds import SWITCH, Kind

T = TypeVar("T")
HELP_COLUMN: Final = 30  # longer flags are printed on their own line
_SPEC: Final = "setting"  # key of a field's metadata
_NEAR: Final = 0.75  # minimum similarity of a misspelt name, without the prefix
# Kubernetes and container links set such variables for a service named like our prefix: they are not misspelt.
_OF_A_SERVICE: Final = re.compile(r".*(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """One setting. An internal one has a variable only: a parent process sets it for its children."""

    kind: Kind
    explanation: str
    fallback: str = ""  # a variable that hosting platforms set; ours takes precedence
    is_secret: bool = False
    is_internal: bool = False


def setting(kind: Kind, explanation: str, *, default: Any = MISSING, **options: Any) -> Any:
    """A field of a settings record. Options are those of Spec; without a default it is required."""
    spec = Spec(kind=kind, explanation=explanation, **options)
    return field(default=default, repr=not spec.is_secret, metadata={_SPEC: spec})


class SettingsHelp(argparse.HelpFormatter):
    """Prints a column of flags and a column of explanations; a flag that is too long for its column has its own
    line."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=HELP_COLUMN)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return [line for part in text.splitlines() for line in super(SettingsHelp, self)._split_lines(part, width)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsSchema(Generic[T]):
    """How one program reads its settings record."""

    record: type[T]
    prefix: str  # of its variables
    retired: Mapping[str, str] = field(default_factory=dict)  # retired variable -> its replacement
    shares_prefix_with: tuple[str, ...] = ()  # longer prefixes that belong to other programs
    refuse_every_unknown: bool = True  # False: the prefix has other uses too, so only misspelt variables are refused

    def flag(self, name: str) -> str:
        """The flag of a field."""
        return "--" + name.replace("_", "-")

    def variable(self, name: str) -> str:
        """The environment variable of a field."""
        return self.prefix + name.upper()

    def add_flags(self, parser: argparse.ArgumentParser) -> None:
        """A flag for every setting that is not internal. Values stay text until `read`, which names their source."""
        for each, spec in self._specs():
            if spec.is_internal:
                continue
            options: dict[str, Any] = {"metavar": spec.kind.metavar}
            if spec.kind is SWITCH:
                options = {"action": argparse.BooleanOptionalAction}
            says = f"{spec.explanation}\n[{_default_of(each)}; {self.variable(each.name)}]"
            parser.add_argument(
                self.flag(each.name),
                dest=each.name,
                default=argparse.SUPPRESS,
                help=says.replace("%", "%%"),
                **options,
            )

    def rows(self) -> Iterator[tuple[str, str, str, str]]:
        """Flag, variable, default and explanation of every setting that is not internal, for the reference."""
        for each, spec in self._specs():
            if not spec.is_internal:
                default = _default_of(each).removeprefix("default: ")
                yield f"`{self.flag(each.name)}`", f"`{self.variable(each.name)}`", default, spec.explanation

    def flags_in(self, namespace: argparse.Namespace) -> dict[str, str]:
        """The settings in parsed arguments, as text by field name."""
        names = {each.name for each, spec in self._specs() if not spec.is_internal}
        given = {name: value for name, value in vars(namespace).items() if name in names}
        return {name: str(value).lower() if isinstance(value, bool) else value for name, value in given.items()}

    def command_line(self, flags: Mapping[str, str]) -> list[str]:
        """The arguments that `flags_in` reads as these flags."""
        line: list[str] = []
        for each, spec in self._specs():
            value = flags.get(each.name)
            if value is not None and spec.kind is SWITCH:
                line.append(self.flag(each.name) if value == "true" else self.flag(f"no_{each.name}"))
            elif value is not None:
                line.append(f"{self.flag(each.name)}={value}")  # one word: a value may begin with a dash
        return line

    def read(self, environment: Mapping[str, str], flags: Mapping[str, str]) -> T:
        """The record. Raises ConfigurationError."""
        self._check_names(environment)
        values: dict[str, Any] = {}
        for each, spec in self._specs():
            variable = self.variable(each.name)
            if each.name in flags:
                values[each.name] = _parse(each, spec, flags[each.name], self.flag(each.name))
            elif variable in environment:
                values[each.name] = _parse(each, spec, environment[variable], variable)
            elif environment.get(spec.fallback):
                values[each.name] = _parse(each, spec, environment[spec.fallback], spec.fallback)
            elif each.default is MISSING:
                raise ConfigurationError(f"{self.flag(each.name)} (or {variable}) is required: {spec.explanation}")
        return self.record(**values)

    def _specs(self) -> Iterator[tuple[Field[Any], Spec]]:
        for each in fields(self.record):  # type: ignore[arg-type]
            yield each, each.metadata[_SPEC]

    def _check_names(self, environment: Mapping[str, str]) -> None:
        """Refuse misspelt and retired variables, which would otherwise be ignored silently."""
        known = [each.name.upper() for each, _ in self._specs()]
        for variable in sorted(environment):
            if variable in self.retired:
                raise ConfigurationError(f"{variable} was renamed: use {self.retired[variable]}")
            name = variable.removeprefix(self.prefix)
            if not variable.startswith(self.prefix) or name in known or variable.startswith(self.shares_prefix_with):
                continue
            if _OF_A_SERVICE.fullmatch(name):
                continue
            near = get_close_matches(name, known, n=1, cutoff=_NEAR) or _same_start(name, known)
            if near:
                raise ConfigurationError(f"{variable}: unknown setting; did you mean {self.prefix}{near[0]}?")
            if self.refuse_every_unknown:
                raise ConfigurationError(f"{variable}: unknown setting")


def _same_start(name: str, known: list[str]) -> list[str]:
    """Settings with more or fewer words at the end: `KEYS` for `KEYS_FILE`, `POLICY_FILE` for `POLICY`.

    Not `..._PORT`: Kubernetes sets it for a service whose name begins like ours.
    """
    if name.endswith("_PORT"):
        return []
    return [each for each in known if each.startswith(f"{name}_") or name.startswith(f"{each}_")]


def _parse(each: Field[Any], spec: Spec, text: str, source: str) -> Any:
    if not text and each.default is None:
        return None  # an empty variable unsets an optional setting, as compose files write it
    try:
        return spec.kind.parse(text)
    except ValueError as error:
        raise ConfigurationError(f"{source}: {error}") from error


def _default_of(each: Field[Any]) -> str:
    if each.default is MISSING:
        return "required"
    if isinstance(each.default, bool):
        return f"default: {'on' if each.default else 'off'}"
    if isinstance(each.default, float):
        return f"default: {each.default:g}"
    return "default: unset" if each.default in (None, ()) else f"default: {each.default}"
