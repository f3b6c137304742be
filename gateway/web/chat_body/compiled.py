"""A quick reader of common chat requests in C (`_native.c`), where it was built. It reads the body once, and makes no
object of a message that routing does not need. An installation without a C compiler reads everything in full.

The types of fields are those of `ChatRequest`, as rules.
"""

import math
from typing import TYPE_CHECKING, Final

from msgspec import inspect

from gateway.parameters import FORMAT_FIELDS, NESTS
from gateway.web.request_schema import ChatRequest
from twolane.process.native import load_native

if TYPE_CHECKING:
    from gateway.web.chat_body import _native
else:
    _native = load_native("gateway.web.chat_body._native", VERSION=1)

IS_BUILT: Final = _native is not None
FORMATS: Final = FORMAT_FIELDS.union(NESTS)
RARE: Final = FORMATS.union("tools functions metadata diffusion suffix prediction".split())  # no common chat has them
# Type, least and greatest value (of a text: length), and whether the value may be null.
Rule = tuple[type, float, float, bool]


def rules_of(chat: type[ChatRequest]) -> dict[str, Rule | None]:
    """The rules for the fields of a chat, by name; None for a field that no common chat has."""
    described = inspect.type_info(chat)
    assert isinstance(described, inspect.StructType)
    rules = {field.encode_name: _rule(field.type) for field in described.fields}
    rules["stream_options"] = (type(None), 0.0, 0.0, True)  # or an object, which the reader knows
    return rules | dict.fromkeys(RARE)


def _rule(of: inspect.Type) -> Rule | None:
    types = of.types if isinstance(of, inspect.UnionType) else (of,)
    limits: tuple[type, float, float]
    match [each for each in types if not isinstance(each, inspect.NoneType)]:
        case [inspect.BoolType()]:
            limits = (bool, 0.0, 0.0)
        case [inspect.StrType(pattern=None, min_length=least, max_length=most)]:
            limits = (str, float(least or 0), math.inf if most is None else float(most))
        case [
            inspect.IntType(multiple_of=None, gt=above, ge=least, lt=None, le=most)
            | inspect.FloatType(multiple_of=None, gt=above, ge=least, lt=None, le=most) as number
        ]:
            low = math.nextafter(above, math.inf) if above is not None else -math.inf if least is None else float(least)
            kind = int if isinstance(number, inspect.IntType) else float
            limits = (kind, low, math.inf if most is None else float(most))
        case _:
            return None
    return *limits, len(types) > 1


def _reads_nothing(*_: object) -> None:
    return None


FIELD_RULES: Final = rules_of(ChatRequest)
# Where the fields of a JSON object are, if it is one that `read_json` reads with this limit of values; and what routing
# needs of it (see `Chat`), if it is a common chat: messages with a role and a text and nothing else, at most so many,
# and no other fields than rules allow.
read_chat = _native.read_chat if IS_BUILT else _reads_nothing
