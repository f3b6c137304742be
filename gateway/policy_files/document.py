"""A YAML file as a tree with positions, environment values filled in.

Knows neither the language nor its words. `${NAME}` must be set; `${NAME:-default}` need not be.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.scanner import RoundTripScanner, ScannerError

from gateway.errors import PolicyError
from gateway.policy_files.section import Section

# The parser takes seconds for a megabyte, and its time for open brackets grows with their square.
_LARGEST_BYTES: Final = 1 << 18
_DEEPEST: Final = 64  # real policies nest about six deep
_VARIABLE: Final = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<default>:-[^}]*)?\}")


class _ShallowScanner(RoundTripScanner):
    """Refuses what is nested too deeply at the bracket or indent that makes it so, before anything is built."""

    def fetch_flow_collection_start(self, TokenClass: Any, to_push: str) -> None:  # noqa: N803 - ruamel's name
        self._bound(len(self.flow_context))
        super().fetch_flow_collection_start(TokenClass, to_push)

    def add_indent(self, column: int) -> bool:
        self._bound(len(self.indents))
        return bool(super().add_indent(column))

    def _bound(self, depth: int) -> None:
        if depth >= _DEEPEST:
            raise ScannerError(None, None, f"nested more than {_DEEPEST} deep", self.reader.get_mark())


def read_document(path: Path, environment: Mapping[str, str]) -> CommentedMap:
    """The file's one mapping. Raises PolicyError if it cannot be read, is not YAML, or names what is not set."""
    return parse_document(_read(path), environment, file=str(path))


def parse_document(text: str, environment: Mapping[str, str], *, file: str) -> CommentedMap:
    """As `read_document`, for text that came from elsewhere; `file` is what errors call it."""
    try:
        document = _reader().load(text)
        if not isinstance(document, CommentedMap):
            raise PolicyError("expected a mapping with version, targets and routes", file=file, line=1, column=1)
        _fill(Section(document, file=file), environment, set())
    except MarkedYAMLError as wrong:
        mark = wrong.problem_mark or wrong.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        cause = str(wrong.problem or wrong.context).split("\n", maxsplit=1)[0]
        raise PolicyError(f"not YAML: {cause}", file=file, line=line, column=column) from wrong
    except (YAMLError, TypeError, ValueError) as wrong:
        raise PolicyError(f"not YAML: {str(wrong).splitlines()[0]}", file=file) from wrong
    return document


def _reader() -> YAML:
    reader = YAML(typ="rt")
    reader.Scanner = _ShallowScanner
    return reader


def _read(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as wrong:
        raise PolicyError(f"cannot be read: {wrong.strerror or wrong}", file=str(path)) from wrong
    if len(content) > _LARGEST_BYTES:
        raise PolicyError(f"larger than {_LARGEST_BYTES} bytes", file=str(path))
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as wrong:
        raise PolicyError(f"not UTF-8 at byte {wrong.start}", file=str(path)) from wrong


def _fill(section: Section, environment: Mapping[str, str], seen: set[int]) -> None:
    """Replace the variables in every text of a mapping, in place: positions stay.

    What several aliases name is one object and is filled once (`seen` holds their ids). Else a file of a kilobyte whose
    anchors double each other would be walked 2^n times, and one that contains itself without end.
    """
    if id(section.node) in seen:
        return
    seen.add(id(section.node))
    for key, value in section.node.items():
        if isinstance(value, CommentedMap):
            _fill(section.within(value, str(key)), environment, seen)
        elif isinstance(value, CommentedSeq):
            _fill_items(section, str(key), value, environment, seen)
        elif isinstance(value, str):
            section.node[key] = _filled(value, section, str(key), environment)


def _fill_items(
    section: Section, key: str, items: CommentedSeq, environment: Mapping[str, str], seen: set[int]
) -> None:
    for number, value in enumerate(items):
        if isinstance(value, CommentedMap):
            _fill(section.within(value, key, number), environment, seen)
        elif isinstance(value, str):
            items[number] = _filled(value, section, key, environment)


def _filled(text: str, section: Section, key: str, environment: Mapping[str, str]) -> Any:
    if "${" not in text:
        return text

    def value_of(match: re.Match[str]) -> str:
        value = environment.get(match["name"])
        if value:
            return value
        if match["default"] is None:
            raise section.fault(f"environment variable {match['name']} is not set and has no default", key)
        return match["default"][2:]

    filled = _VARIABLE.sub(value_of, text)
    if "${" in filled:
        raise section.fault("expected ${NAME} or ${NAME:-default}", key)
    return filled
