"""The `validate` of a route: what its answers are checked against, and what may leave before the check is over."""

from enum import StrEnum

from gateway.enums import Buffer
from gateway.policy_files.section import Section
from gateway.policy_types import Checks

_MOST_FIRST_BYTES = 1 << 20


class _Against(StrEnum):
    REQUEST = "request"
    NONE = "none"


class _Repair(StrEnum):
    SYNTAX = "syntax"
    NONE = "none"


def read_checks(entry: Section, *, wants_confidence: bool, can_fall_back: bool) -> Checks | None:
    """None if nothing is checked. A confidence comes with the end of an answer, so asking for one holds all of it."""
    validate = entry.section("validate")
    if validate is None:
        return None
    plain = Checks()
    is_checked = validate.word("schema", _Against, _Against.REQUEST) is _Against.REQUEST
    buffer = validate.word("buffer", Buffer, Buffer.FULL if is_checked else Buffer.NONE)
    checks = Checks(
        buffer=buffer,
        first_bytes=validate.integer("first_bytes", plain.first_bytes, least=1, most=_MOST_FIRST_BYTES),
        repair=validate.word("repair", _Repair, _Repair.NONE) is _Repair.SYNTAX,
        send_error_to_fallback=validate.flag("send_error_to_fallback", False),
    )
    validate.close()
    if not is_checked:
        _refuse_without_check(validate, checks)
        return None
    if wants_confidence and buffer is not Buffer.FULL:
        raise validate.fault(f"buffer: {buffer} lets go of an answer before its confidence is known", "buffer")
    if checks.repair and buffer is not Buffer.FULL:
        raise validate.fault("only what is held back whole can be repaired (buffer: full)", "repair")
    if validate.has("first_bytes") and buffer is not Buffer.FIRST_BYTES:
        raise validate.fault("counts with buffer: first_bytes only", "first_bytes")
    if checks.send_error_to_fallback and not can_fall_back:
        raise validate.fault("this route has no `fall_back` to be told", "send_error_to_fallback")
    return checks


def _refuse_without_check(validate: Section, checks: Checks) -> None:
    """With `schema: none` the rest would mean nothing, and whoever wrote it meant something."""
    if checks.buffer is not Buffer.NONE:
        raise validate.fault("nothing is held without a check", "buffer")
    for key, is_asked in (
        ("first_bytes", validate.has("first_bytes")),
        ("repair", checks.repair),
        ("send_error_to_fallback", checks.send_error_to_fallback),
    ):
        if is_asked:
            raise validate.fault("means nothing without a check", key)
