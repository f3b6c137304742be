"""Write docs/reference and the list of decisions from the code: `python -m docs.generate [--check]`.

`--check` writes nothing and exits 1 if a page differs from the code; the tests run it.
"""

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from docs.compatibility import compatibility
from docs.parameters import parameters
from docs.tables import table

HOME: Final = Path(__file__).parent
_HEAD: Final = "<!-- Written by `python -m docs.generate`; do not edit. -->\n\n"


def main(argv: list[str] | None = None) -> int:
    """Write or compare every page; return the exit code."""
    parser = argparse.ArgumentParser(prog="docs.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only")
    is_check = parser.parse_args(argv).check
    stale = {name: text for name, text in pages() if not _is_current(HOME / name, text)}
    for name, text in stale.items():
        if not is_check:
            (HOME / name).write_text(text, encoding="utf-8")
        print(f"docs/{name}: {'differs from the code' if is_check else 'written'}")
    return int(is_check and bool(stale))


def pages() -> Iterator[tuple[str, str]]:
    """Every page with its text."""
    makers: Mapping[str, Callable[[], Iterable[str]]] = {
        "reference/settings.md": _settings,
        "reference/cli.md": _cli,
        "reference/policy.md": _policy,
        "reference/headers.md": _headers,
        "reference/parameters.md": parameters,
        "reference/compatibility.md": compatibility,
        "reference/errors.md": _errors,
        "reference/metrics.md": _metrics,
        "decisions/index.md": _decisions,
    }
    for name, make in makers.items():
        yield name, _HEAD + "\n".join(make()) + "\n"


def _is_current(path: Path, text: str) -> bool:
    return path.exists() and path.read_text(encoding="utf-8") == text


# Settings


def _settings() -> Iterator[str]:
    from diffusion_worker.settings import SCHEMA as WORKER
    from gateway.settings import SCHEMA as GATEWAY

    yield from (
        "# Settings",
        "",
        "A flag takes precedence over its environment variable, which takes precedence over the default.",
        "",
    )
    for title, schema in (("Gateway: `twolane serve`", GATEWAY), ("Worker: `twolane worker`", WORKER)):
        yield from (f"## {title}", "")
        yield from table(("flag", "variable", "default", "meaning"), schema.rows())


# Command line


def _cli() -> Iterator[str]:
    from twolane.cli import COMMANDS, usage

    yield from ("# Command line", "", "```text", usage(), "```", "")
    verbs = {
        "policy": ("check", "schema", "explain", "simulate", "diff", "suggest"),
        "keys": ("new",),
        "weights": ("fetch",),
    }
    for command in COMMANDS:
        yield f"## twolane {command}"
        yield ""
        for verb in verbs.get(command, ("",)):
            yield from ("```text", _help(command, verb), "```", "")


def _help(command: str, verb: str) -> str:
    from twolane.cli import main as twolane

    out = io.StringIO()
    line = [command, *([verb] if verb else []), "--help"]
    with patch.dict(os.environ, {"COLUMNS": "110"}), contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        twolane(line)
    return "\n".join(row.rstrip() for row in out.getvalue().strip().splitlines())


# Policy keys


def _policy() -> Iterator[str]:
    from gateway.policy_files.descriptions import DESCRIPTIONS
    from gateway.policy_files.schema import editor_schema

    yield from (
        "# Policy keys",
        "",
        "`*` is a name of your own, `[]` an item of a list. Guide: [Policies](../policies.md).",
        "",
    )
    found = dict(keys_of(editor_schema()))
    yield from table(
        ("key", "value", "meaning"),
        ((f"`{key}`", values, DESCRIPTIONS[key]) for key, values in found.items()),
    )


def keys_of(node: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Every key below a node of the JSON Schema, with the values it takes."""
    for option in node.get("anyOf", ()):
        yield from keys_of(option, path)
    for key, below in node.get("properties", {}).items():
        inner = f"{path}.{key}" if path else key
        yield inner, _values(below)
        yield from keys_of(below, inner)
    named = node.get("additionalProperties")
    if isinstance(named, dict):
        yield f"{path}.*", _values(named)
        yield from keys_of(named, f"{path}.*")
    if isinstance(node.get("items"), dict):
        yield from keys_of(node["items"], f"{path}[]")


def _values(node: Mapping[str, Any]) -> str:
    options = [
        option for option in node.get("anyOf", (node,)) if "${" not in str(option.get("pattern", "")).replace("\\", "")
    ]
    return " or ".join(dict.fromkeys(filter(None, map(_one_value, options))))


def _one_value(node: Mapping[str, Any]) -> str:
    if "anyOf" in node:
        return _values(node)
    if "enum" in node:
        return ", ".join(f"`{word}`" for word in map(str, node["enum"]))
    kind = str(node.get("type", ""))
    if kind == "array":
        return f"list of {_one_value(node['items'])}" if "enum" not in node["items"] else "list"
    if "minimum" in node and node["minimum"] == node.get("maximum"):
        return f"`{node['minimum']}`"
    if "minimum" in node or "maximum" in node:
        return f"{kind}, {node.get('minimum', '')} to {node.get('maximum', '')}"
    return {"object": "mapping", "boolean": "true or false", "string": "text"}.get(kind, kind)


# Response headers, errors, metrics


def _headers() -> Iterator[str]:
    from gateway.web.headers import MEANINGS

    yield from ("# Response headers", "", "Every response of `/v1/*` carries these, errors included.", "")
    yield from table(("header", "meaning"), ((f"`{name.decode()}`", text) for name, text in MEANINGS.items()))


_ERRORS_HEAD: Final = """\
# Errors

Every error has OpenAI's shape, `{"error": {"message", "type", "param", "code"}}`, or below `/v1/messages`
[Anthropic's](../apis.md#messages), and the header `x-should-retry`,
which OpenAI's clients follow. `param` names the field at fault, or is null. `retry-after` says in whole seconds when to
try again, if that is known.

In a stream, an error before the first event has its own status. A later one is the last event, `event: error` with the
same body, and no `[DONE]` follows. If a [heartbeat](../policies.md#time-limits-and-heartbeats) has sent the head of the
stream, the status is 200 and the error is an event as well; its headers precede it as a comment.
"""
_CAUSES_HEAD: Final = """\
## Which error is reported

Every candidate of a request may fail or be skipped for another cause. The first cause of this list that occurred is
reported. A cause that may pass comes before one that would fail again, so an outage is never reported as an invalid
request: the target that was down might have served it.
"""


def _errors() -> Iterator[str]:
    from gateway.attempts.final_error import MEANINGS, Cause
    from gateway.errors import AttemptFailed, CannotStart, GatewayError

    yield from (_ERRORS_HEAD, "## Gateway", "")
    served = [kind for kind in _tree(GatewayError) if not issubclass(kind, CannotStart) and kind is not AttemptFailed]
    yield from _error_table(served, lambda kind: str(kind.kind))
    yield _CAUSES_HEAD
    for number, cause in enumerate(sorted(Cause, reverse=True), 1):
        yield f"{number}. {MEANINGS[cause]}"
    yield from ("", "## Worker", "", "The gateway maps these to its own when it calls a worker.", "")
    from diffusion_worker.errors import BadSetting, CheckpointError, WorkerError
    from diffusion_worker.web.error_body import problem_of  # defines the errors of the web layer itself

    served_by_worker = [kind for kind in _tree(WorkerError) if not issubclass(kind, CheckpointError | BadSetting)]
    yield from _error_table(served_by_worker, lambda kind: str(problem_of(_example(kind)).body["error"]["type"]))
    yield from _listener_errors()


def _listener_errors() -> Iterator[str]:
    from twolane.process.http.limits import (
        BODY_TIMED_OUT,
        HEAD_TIMED_OUT,
        HEAD_TOO_LARGE,
        MALFORMED,
        RESPONSES,
        TOO_MANY_HEADERS,
        HttpLimits,
    )

    limits = HttpLimits()
    values = {
        HEAD_TOO_LARGE: (limits.head_bytes,),
        TOO_MANY_HEADERS: (limits.headers,),
        HEAD_TIMED_OUT: (limits.head_s,),
        BODY_TIMED_OUT: (limits.body_s, limits.body_bytes_per_s),
        MALFORMED: ("…",),
    }
    yield from (
        "",
        "## Listener",
        "",
        "Of both programs, before a request is understood or if it cannot be finished. The connection is then closed.",
        "",
    )
    yield from table(
        ("status", "code", "type", "message", "retry"),
        sorted(
            (
                str(each.status),
                f"`{each.code}`",
                f"`{each.kind}`",
                each.message.format(*values.get(each, ())),
                "yes" if each.retryable else "no",
            )
            for each in RESPONSES
        ),
    )


def _error_table(kinds: Iterable[type[Any]], type_of: Callable[[type[Any]], str]) -> Iterator[str]:
    rows = {
        (str(kind.status), f"`{kind.code}`", f"`{type_of(kind)}`", _summary(kind), "yes" if kind.retryable else "no")
        for kind in kinds
    }
    yield from table(("status", "code", "type", "when", "retry"), sorted(rows))


def _example(kind: type[Any]) -> Any:
    """An error of this class, without its constructor's arguments."""
    error: Any = Exception.__new__(kind)
    error.message, error.param, error.retry_after_s = "", None, None
    return error


def _tree(kind: type[Any]) -> Iterator[type[Any]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _tree(below)


def _summary(kind: type[Any]) -> str:
    return " ".join((kind.__doc__ or "").split("\n\n")[0].split())


def _metrics() -> Iterator[str]:
    from prometheus_client.core import CollectorRegistry

    from diffusion_worker.telemetry.metrics import Meters
    from gateway.telemetry.gauges import FAMILIES
    from gateway.telemetry.metrics import Metrics

    def rows(registry: CollectorRegistry) -> Iterator[tuple[str, ...]]:
        for collector in list(registry._collector_to_names):
            for family in getattr(collector, "describe", collector.collect)():
                labels = ", ".join(f"`{label}`" for label in getattr(collector, "_labelnames", ()))
                total = "_total" if family.type == "counter" else ""
                yield f"`{family.name}{total}`", str(family.type), labels, family.documentation

    yield from (
        "# Metrics",
        "",
        "Label values come from policies, keys files and closed sets, never from requests.",
        "",
        "## Gateway",
        "",
    )
    states = (
        (f"`{name}`", "gauge", ", ".join(f"`{label}`" for label in family.labels), family.help)
        for name, family in FAMILIES.items()
    )
    yield from table(("metric", "type", "labels", "meaning"), (*rows(Metrics().registry), *states))
    yield from ("## Worker", "")
    yield from table(("metric", "type", "labels", "meaning"), rows(Meters("model").registry))


# Decisions


def _decisions() -> Iterator[str]:
    yield from ("# Decisions", "", "Each decision is one page: context, choice, price.", "")
    for path in sorted((HOME / "decisions").glob("[0-9]*.md")):
        number, title = path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ").split(". ", 1)
        yield f"- {number}. [{title}]({path.name})"


if __name__ == "__main__":
    sys.exit(main())
