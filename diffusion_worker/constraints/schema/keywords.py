"""How every keyword of JSON Schema is treated: the closed table from which docs/reference/json-schema.md is generated.

Unknown keywords are annotations, as the specification says; every keyword that restricts values is listed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from diffusion_worker.errors import UnsupportedSchema

Treatment = Literal["automaton", "automaton or checked", "checked", "refused", "annotation"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyword:
    """The treatment of a keyword, and a remark for the documentation."""

    treatment: Treatment
    remark: str = ""


def _rows(treatment: Treatment, **remarks: str) -> dict[str, Keyword]:
    return {name.replace("_", "$"): Keyword(treatment=treatment, remark=remark) for name, remark in remarks.items()}


KEYWORDS: Final[dict[str, Keyword]] = {
    **_rows(
        "automaton",
        type="",
        enum="values that violate other keywords are dropped at compile time",
        const="",
        properties="in declared order",
        required="undeclared required names follow the declared ones",
        additionalProperties="after the declared members",
        items="",
        prefixItems="",
        additionalItems="drafts up to 2019-09, after a list of `items`",
        minimum="",
        maximum="",
        exclusiveMinimum="a number or, in draft 4, a boolean",
        exclusiveMaximum="a number or, in draft 4, a boolean",
        _ref="within the document, and to the metaschemas of JSON Schema; recursion is unrolled up to the size limits; "
        "other references are refused",
        _dynamicRef="2020-12; refused if the target depends on the references before it",
        _recursiveRef="2019-09; the same",
        _defs="",
        definitions="",
    ),
    **_rows(
        "automaton or checked",
        patternProperties="checked if a pattern is not regular",
        propertyNames="checked if it contains a pattern that is not regular",
        minProperties="checked above the limit on members, or if undeclared names may repeat",
        maxProperties="checked above the limit on members",
        minItems="checked above the limit on items",
        maxItems="checked above the limit on items",
        minLength="code points; checked above the limit on length",
        maxLength="code points; checked above the limit on length",
        pattern="ECMA 262, unanchored; checked if not regular (back references, inner look-around, `\\b`); of "
        "Unicode's properties only general categories and `ASCII` (`\\p{Letter}`, `\\P{Lu}`), at most 100 in an "
        "expression; refused if Python's `re`, which validates, cannot parse it",
        format="the formats listed below, others are annotations; large schemas: no IP addresses in brackets inside "
        "URIs and e-mail addresses; checked only above the size limits",
        multipleOf="integers up to 1000; otherwise the number of digits is limited and it is checked",
        allOf="merged; checked above 64 alternatives",
        anyOf="united; checked above 64 alternatives",
        dependentRequired="two alternatives per name; checked above 64 alternatives",
        dependentSchemas="two alternatives per name; checked above 64 alternatives",
        dependencies="drafts up to 7; like the two above",
        oneOf="branches that are disjoint or can be made disjoint; otherwise united and checked",
        _not="if the complement is expressible; otherwise checked",
        _if="if the complement is expressible; otherwise checked",
        then="see `if`",
        _else="see `if`",
    ),
    **_rows(
        "checked",
        uniqueItems="",
        contains="in the automaton: at least `minContains` items",
        minContains="see `contains`",
        maxContains="",
        unevaluatedProperties="in the automaton: `false` forbids undeclared names",
        unevaluatedItems="",
    ),
    **_rows(
        "refused",
        extends="draft 3",
        disallow="draft 3",
        divisibleBy="draft 3",
    ),
    **_rows(
        "annotation",
        _schema="selects the dialect",
        _id="base of references, from draft 6 on",
        id="base of references in drafts up to 5",
        _anchor="target of references",
        _dynamicAnchor="target of references",
        _recursiveAnchor="target of references in 2019-09",
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
for _name in ("not", "if", "else"):  # reserved words of Python
    KEYWORDS[_name] = KEYWORDS.pop(f"${_name}")

ANNOTATIONS: Final = frozenset(name for name, keyword in KEYWORDS.items() if keyword.treatment == "annotation")
_REFUSED: Final = frozenset(name for name, keyword in KEYWORDS.items() if keyword.treatment == "refused")


def refuse_unsupported(schema: Mapping[str, Any], pointer: str) -> None:
    """Raises UnsupportedSchema if the schema uses a refused keyword."""
    for name in _REFUSED & set(schema):
        raise UnsupportedSchema("not supported", keyword=name, pointer=f"{pointer}/{name}")


def keyword_at(pointer: str) -> str:
    """The last keyword on a JSON pointer; `type` for the root."""
    return next((token for token in reversed(pointer.split("/")) if token in KEYWORDS), "type")
