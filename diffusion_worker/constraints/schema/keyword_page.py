"""The page about keywords, written from the tables the compiler works with:
`python -m diffusion_worker.constraints.schema.keyword_page > docs/reference/json-schema.md`.
"""

import sys
from dataclasses import astuple, fields
from itertools import groupby
from typing import Final

from diffusion_worker.constraints.schema.formats import FORMATS
from diffusion_worker.constraints.schema.keywords import KEYWORDS
from diffusion_worker.constraints.schema.size_limits import LADDER, Caps

_HEAD: Final = """# What becomes of a JSON Schema

Written by `python -m diffusion_worker.constraints.schema.keyword_page`; a test compares. Dialects: draft 4 to 7,
2019-09 and 2020-12, told apart by `$schema`, 2020-12 without it. Nothing is ignored silently: a keyword is kept *in
the automaton*, so that no other text can be written; or *checked after*, when the answer is complete; or *refused*
with a 400 `unsupported_schema` that names keyword and JSON pointer. The names of all keywords that a schema leaves to
the final check come with the compilation (`needs_check`). Unknown keywords are annotations.

## The normal form
Every text that is accepted satisfies the schema, but for what `needs_check` names. The reverse holds for texts in
normal form, within the caps below:

- members in declared order: of the schema itself, then of what it refers to and combines, in the order of the text;
  then names that are only required; then undeclared ones;
- strings that the schema leaves alone in any legal spelling, all others with the escapes that writers use: short ones,
  and `\\uXXXX` for control characters and for what is not ASCII; strict UTF-8, no lone surrogates;
- numbers without needless zeros, exponents of at most two digits, none where bounds or `multipleOf` restrict them; with
  an exclusive bound as many digits as a double keeps apart; integers without a fraction;
- values of `enum` and `const` as the schema writes them;
- white space, of any length, wherever RFC 8259 allows it: a bound would cost a state for each byte, and the tokens of
  the answer bound it anyway.

Expressions are read so that ECMA 262 and Python's `re` agree: `\\d` and `\\w` are ASCII where they must match.

## Keywords
"""
_CAPS_HEAD: Final = """
## Caps
A compilation takes the first rung whose states hold it. Depths, and members that the schema does not mention, make the
language smaller where they are cut (`stats.cut` and `stats.rung` say so); lengths and counts beyond theirs are checked
after. If even the last rung is too small, the schema is refused.

"""
_CAPS_COLUMNS: Final = {
    "states": "states",
    "free_depth": "depth of free-form values",
    "undeclared_depth": "of undeclared members (-1: none)",
    "recursion": "recursion",
    "depth": "depth",
    "length": "characters counted",
    "wide": "in all strings",
    "items": "items",
    "members": "members",
}


def page() -> str:
    """The whole page."""
    return "\n".join([_HEAD + _keywords(), _formats(), _CAPS_HEAD + _caps(), ""])


def _keywords() -> str:
    lines = ["| keyword | what becomes of it | remark |", "| --- | --- | --- |"]
    for treatment, group in groupby(KEYWORDS.items(), key=lambda item: item[1].treatment):
        lines += [f"| `{name}` | {treatment} | {keyword.remark} |" for name, keyword in group]
    return "\n".join(lines)


def _formats() -> str:
    return "\nFormats in the automaton: " + ", ".join(f"`{name}`" for name in FORMATS) + "."


def _caps() -> str:
    names = [_CAPS_COLUMNS[entry.name] for entry in fields(Caps)]
    rows = [["rung", *names], ["---"] * (len(names) + 1)]
    rows += [[str(rung), *map(str, astuple(caps))] for rung, caps in enumerate(LADDER)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    sys.stdout.write(page())
