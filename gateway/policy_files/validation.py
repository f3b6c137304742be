"""The `validate` section of a route: response validation, and how much is buffered until it has passed."""

from enum import StrEnum

from gateway.enums import Buffer, RunawayScope
from gateway.policy_files import renamed_keys
from gateway.policy_files.section import Section
from gateway.policy_types import READ_ALONG, Checks

_MAX_FIRST_BYTES = 1 << 20


class _SchemaSource(StrEnum):
    REQUEST = "request"
    NONE = "none"


class _Off(StrEnum):
    NONE = "none"


class _Repair(StrEnum):
    SYNTAX = "syntax"
    NONE = "none"


def read_checks(entry: Section, *, needs_confidence: bool, can_fall_back: bool) -> Checks | None:
    """READ_ALONG without a `validate`, None if nothing is validated (`validate: none`, or `schema: none` in it).
    `min_confidence` needs the full response, because the confidence comes at its end."""
    if isinstance(entry.node.get("validate"), str):
        entry.choice("validate", _Off)
        return None
    validate = entry.section("validate")
    if validate is None:
        return READ_ALONG
    validate.reject_renamed(renamed_keys.VALIDATE)
    defaults = Checks()
    is_checked = validate.choice("schema", _SchemaSource, _SchemaSource.REQUEST) is _SchemaSource.REQUEST
    buffer = validate.choice("buffer", Buffer, Buffer.FULL if is_checked else Buffer.NONE)
    checks = Checks(
        buffer=buffer,
        first_bytes=validate.integer("first_bytes", defaults.first_bytes, minimum=1, maximum=_MAX_FIRST_BYTES),
        repair=validate.choice("repair", _Repair, _Repair.NONE) is _Repair.SYNTAX,
        send_error_to_fallback=validate.boolean("send_error_to_fallback", False),
        runaway=validate.choice("runaway", RunawayScope, defaults.runaway),
    )
    validate.close()
    if not is_checked:
        _refuse_without_check(validate, checks)
        return None
    if needs_confidence and buffer is not Buffer.FULL:
        raise validate.error(
            "`min_confidence`, of the route or of a target, requires buffer: full, because the confidence arrives with"
            " the end of a response",
            "buffer",
        )
    if checks.repair and buffer is not Buffer.FULL:
        raise validate.error("repair: syntax requires buffer: full", "repair")
    if validate.has("first_bytes") and buffer is not Buffer.FIRST_BYTES:
        raise validate.error("allowed only with buffer: first_bytes", "first_bytes")
    if checks.send_error_to_fallback and not can_fall_back:
        raise validate.error("requires a `fall_back` on this route", "send_error_to_fallback")
    return checks


def _refuse_without_check(validate: Section, checks: Checks) -> None:
    """With `schema: none` the other keys have no effect, so they are refused."""
    if checks.buffer is not Buffer.NONE:
        raise validate.error("schema: none requires buffer: none", "buffer")
    for key, is_set in (
        ("first_bytes", validate.has("first_bytes")),
        ("repair", checks.repair),
        ("send_error_to_fallback", checks.send_error_to_fallback),
        ("runaway", validate.has("runaway")),
    ):
        if is_set:
            raise validate.error("not allowed with schema: none", key)
