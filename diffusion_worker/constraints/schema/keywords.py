"""What becomes of every keyword of JSON Schema: the closed table from which docs/reference/json-schema.md is written.

Unknown keywords are annotations, as the specification has it; no keyword that asserts something is unknown here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from diffusion_worker.errors import UnsupportedSchema

Treatment = Literal["in the automaton", "automaton, else checked", "checked after", "refused", "annotation"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyword:
    """What becomes of a keyword, and the remark that a reader of the table needs."""

    treatment: Treatment
    remark: str = ""


def _rows(treatment: Treatment, **remarks: str) -> dict[str, Keyword]:
    return {name.replace("_", "$"): Keyword(treatment=treatment, remark=remark) for name, remark in remarks.items()}


KEYWORDS: Final[dict[str, Keyword]] = {
    **_rows(
        "in the automaton",
        type="",
        enum="members are tested against the other keywords when the schema is compiled",
        const="",
        properties="in declared order",
        required="names that are declared nowhere stand behind the declared ones",
        additionalProperties="behind the declared members",
        items="",
        prefixItems="",
        additionalItems="drafts up to 2019-09, behind a list of `items`",
        minimum="",
        maximum="",
        exclusiveMinimum="a number or, in draft 4, a boolean",
        exclusiveMaximum="a number or, in draft 4, a boolean",
        _ref="within the document; recursion unrolled to the depth of the caps; a remote one is refused",
        _defs="",
        definitions="",
    ),
    **_rows(
        "automaton, else checked",
        patternProperties="checked if an expression is not regular",
        propertyNames="checked if it holds an expression that is not regular",
        minProperties="checked above the cap on counts, or if undeclared names may repeat",
        maxProperties="checked above the cap on counts",
        minItems="checked above the cap on items",
        maxItems="checked above the cap on items",
        minLength="code points; checked above the cap on lengths",
        maxLength="code points; checked above the cap on lengths",
        pattern="ECMA 262, searched; checked if not regular (back references, look-around inside, `\\b`); refused if "
        "Python's `re`, which checks, cannot read it (`\\p`)",
        format="the formats below; all others are annotations; checked only if it does not fit the caps",
        multipleOf="integers up to 1000; otherwise digits are limited and it is checked",
        allOf="merged; checked if alternatives multiply beyond 64",
        anyOf="united; checked if alternatives multiply beyond 64",
        dependentRequired="two alternatives per name; checked if they multiply beyond 64",
        dependentSchemas="two alternatives per name; checked if they multiply beyond 64",
        dependencies="drafts up to 7; as the two before",
        oneOf="branches that can be told apart or made to exclude each other; otherwise united and checked",
        _not="where the opposite has a shape; otherwise checked",
        _if="where the opposite has a shape; otherwise checked",
        then="see `if`",
        _else="see `if`",
    ),
    **_rows(
        "checked after",
        uniqueItems="",
        contains="the array has at least `minContains` items",
        minContains="see `contains`",
        maxContains="",
        unevaluatedProperties="`false` also closes the object against undeclared names",
        unevaluatedItems="",
    ),
    **_rows(
        "refused",
        _dynamicRef="",
        _recursiveRef="",
        extends="draft 3",
        disallow="draft 3",
        divisibleBy="draft 3",
    ),
    **_rows(
        "annotation",
        _schema="chooses the dialect",
        _id="base of references",
        id="base of references",
        _anchor="target of references",
        _dynamicAnchor="target of references",
        _recursiveAnchor="",
        _vocabulary="",
        _comment="",
        title="",
        description="",
        default="",
        examples="",
        deprecated="",
        readOnly="",
        writeOnly="",
        contentEncoding="",
        contentMediaType="",
        contentSchema="",
        nullable="OpenAPI; JSON Schema says `type: [..., null]`",
    ),
}
for _name in ("not", "if", "else"):  # words that Python keeps for itself
    KEYWORDS[_name] = KEYWORDS.pop(f"${_name}")

ANNOTATIONS: Final = frozenset(name for name, keyword in KEYWORDS.items() if keyword.treatment == "annotation")
_REFUSED: Final = frozenset(name for name, keyword in KEYWORDS.items() if keyword.treatment == "refused")


def refuse_unsupported(schema: Mapping[str, Any], pointer: str) -> None:
    """Raises UnsupportedSchema if a keyword of this schema is one of the refused."""
    for name in _REFUSED & set(schema):
        raise UnsupportedSchema("not supported", keyword=name, pointer=f"{pointer}/{name}")


def keyword_at(pointer: str) -> str:
    """The last keyword that a JSON pointer passes; `type` for the root."""
    return next((token for token in reversed(pointer.split("/")) if token in KEYWORDS), "type")
