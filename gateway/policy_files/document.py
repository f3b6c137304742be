"""Reads a YAML file into a tree with positions and substitutes environment variables.

Independent of the policy language. `${NAME}` must be set; `${NAME:-default}` may be unset.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.scanner import RoundTripScanner, ScannerError

from gateway.errors import PolicyError, PolicyUnreadable
from gateway.policy_files.section import Section

# The parser needs seconds per megabyte, and quadratic time for nested open brackets.
_MAX_BYTES: Final = 1 << 18
_MAX_DEPTH: Final = 64  # real policies nest about six levels deep
_VARIABLE: Final = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<default>:-[^}]*)?\}")


class _DepthLimitedScanner(RoundTripScanner):
    """Refuses deep nesting at the bracket or indent that exceeds the limit, before anything is built."""

    def fetch_flow_collection_start(self, TokenClass: Any, to_push: str) -> None:  # noqa: N803 - ruamel's name
        self._check_depth(len(self.flow_context))
        super().fetch_flow_collection_start(TokenClass, to_push)

    def add_indent(self, column: int) -> bool:
        self._check_depth(len(self.indents))
        return bool(super().add_indent(column))

    def _check_depth(self, depth: int) -> None:
        if depth >= _MAX_DEPTH:
            raise ScannerError(None, None, f"nested more than {_MAX_DEPTH} levels deep", self.reader.get_mark())


def read_document(path: Path, environment: Mapping[str, str]) -> CommentedMap:
    """The file's top-level mapping. Raises PolicyError if the file is unreadable, invalid YAML or uses an unset
    variable."""
    return parse_document(_read(path), environment, file=str(path))


def parse_document(text: str, environment: Mapping[str, str], *, file: str) -> CommentedMap:
    """As `read_document`, for a text; error messages use `file` as its name."""
    try:
        document = _reader().load(text)
        if not isinstance(document, CommentedMap):
            raise PolicyError(
                "expected a mapping with the keys version, targets and routes", file=file, line=1, column=1
            )
        _substitute(Section(document, file=file), environment, set())
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        cause = str(error.problem or error.context).split("\n", maxsplit=1)[0]
        raise PolicyError(f"invalid YAML: {cause}", file=file, line=line, column=column) from error
    except (YAMLError, TypeError, ValueError) as error:
        raise PolicyError(f"invalid YAML: {str(error).splitlines()[0]}", file=file) from error
    return document


def _reader() -> YAML:
    reader = YAML(typ="rt")
    reader.Scanner = _DepthLimitedScanner
    return reader


def _read(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PolicyUnreadable(f"cannot read the file: {error.strerror or error}", file=str(path)) from error
    if len(content) > _MAX_BYTES:
        raise PolicyError(f"the file is larger than {_MAX_BYTES} bytes", file=str(path))
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PolicyError(f"invalid UTF-8 at byte {error.start}", file=str(path)) from error


def _substitute(section: Section, environment: Mapping[str, str], seen: set[int]) -> None:
    """Substitute variables in all strings of a mapping, in place, which keeps their positions.

    Aliased nodes are visited once (`seen` holds their ids): otherwise nested anchors would take exponential time
    ("billion laughs") and a recursive alias would never end.
    """
    if id(section.node) in seen:
        return
    seen.add(id(section.node))
    for key, value in section.node.items():
        if isinstance(value, CommentedMap):
            _substitute(section.child(value, str(key)), environment, seen)
        elif isinstance(value, CommentedSeq):
            _substitute_items(section, str(key), value, environment, seen)
        elif isinstance(value, str):
            section.node[key] = _substituted(value, section, str(key), environment)


def _substitute_items(
    section: Section, key: str, items: CommentedSeq, environment: Mapping[str, str], seen: set[int]
) -> None:
    for number, value in enumerate(items):
        if isinstance(value, CommentedMap):
            _substitute(section.child(value, key, number), environment, seen)
        elif isinstance(value, str):
            items[number] = _substituted(value, section, key, environment)


def _substituted(text: str, section: Section, key: str, environment: Mapping[str, str]) -> Any:
    if "${" not in text:
        return text

    def value_of(match: re.Match[str]) -> str:
        value = environment.get(match["name"])
        if value:
            return value
        if match["default"] is None:
            raise section.error(f"environment variable {match['name']} is not set and has no default", key)
        return match["default"][2:]

    filled = _VARIABLE.sub(value_of, text)
    if "${" in filled:
        raise section.error("invalid variable; expected ${NAME} or ${NAME:-default}", key)
    return filled
