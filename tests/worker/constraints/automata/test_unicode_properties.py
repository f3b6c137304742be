"""Properties of Unicode in regular expressions, compared with another engine."""

import re
import unicodedata

import jsonschema_rs
import pytest

from diffusion_worker.constraints.automata.unicode_properties import (
    MAX_PROPERTIES,
    property_ranges,
    without_properties,
)

CHARACTERS = [
    *map(chr, range(0x20, 0x250)),
    *"٣६Ⅷ²ʰǅ中あ한\u0301\u0903\u20dd€+^_-([{»«…\u2028\u2029\u00ad\ue000😀𝒜\U000e0001",
]


@pytest.mark.parametrize(
    "pattern",
    [
        *(r"^\p{L}$", r"^\P{Letter}$", r"^[\p{Lu}\p{Nd}_-]$", r"^[^\p{M}\p{Z}]$", r"^[\P{Ll}a]$", r"^\p{gc=Sc}$"),
        *(r"^\p{General_Category=Punctuation}$", r"^[\]\p{Ps}[]$", r"^\\p$", r"^\p{LC}$", r"^\P{ASCII}$", r"^\p{Cf}$"),
    ],
)
def test_a_property_has_the_characters_that_another_engine_finds(pattern: str) -> None:
    """Brackets that are escaped begin no class, and an escaped backslash no property."""
    other = jsonschema_rs.Draft202012Validator({"pattern": pattern.replace("[]$", r"\[]$")})
    mine = re.compile(without_properties(pattern))
    assert [char for char in CHARACTERS if (mine.search(char) is not None) != other.is_valid(char)] == []


def test_every_category_has_its_characters() -> None:
    """And none another one's."""
    for name in ("Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Nd", "Pc", "Sk", "Zs", "Cc", "Cn"):
        edges = [code for pair in property_ranges(name) for code in pair]
        assert {unicodedata.category(chr(code)) for code in edges} == {name}


@pytest.mark.parametrize("pattern", [r"\p{Script=Greek}", r"\p{Emoji}", r"\pL", r"\p{Cs}"])
def test_other_properties_stay_as_they_are(pattern: str) -> None:
    """`re` refuses them by name."""
    assert without_properties(pattern) == pattern
    with pytest.raises(re.error, match="bad escape"):
        re.compile(pattern)


def test_expressions_of_many_properties_are_not_expanded() -> None:
    """A few kilobytes would become megabytes, and take minutes in `re`, which refuses them now."""
    assert re.compile(without_properties(r"\p{Pd}" * MAX_PROPERTIES)).fullmatch("-" * MAX_PROPERTIES)
    many = r"\P{Lu}" * (MAX_PROPERTIES + 1)
    assert without_properties(many) == many
