"""Generators for the content of prompts: numbers, identifiers, source code, schemas, tables, puzzles.

Source code and technical prose come from the standard library of the running Python (PSF licence); everything else is
written or computed here.
"""

import ast
import inspect
import json
import random
from functools import cache
from importlib import import_module

from training.classifier.grammar import Filler, Grammar
from training.classifier.snippets import SNIPPETS

# Modules whose source and docstrings are quoted.
_MODULES = tuple(
    import_module(name)
    for name in "argparse bisect calendar csv dataclasses difflib fractions heapq shutil statistics textwrap".split()
)
_NOUNS = (
    "user order price item list file token config cache node path request result total index score data name".split()
)
_VERBS = "get set load save parse make build check find count sort merge is has update send read fetch add".split()
_KEYS = (
    "name title id age email price date city country quantity status summary reason author year tags rating type"
    " description address phone score language category"
).split()
_TYPES = ("string", "integer", "number", "boolean", "array")
_FILES = "main.py app.js index.ts server.go lib.rs Main.java utils.rb config.yaml style.css src/api/client.py".split()


def number(rng: random.Random) -> str:
    """A number of one to three digits."""
    return str(rng.choice((rng.randint(2, 20), rng.randint(10, 99), rng.randint(100, 999))))


def digit(rng: random.Random) -> str:
    """One digit, never 0."""
    return str(rng.randint(1, 9))


def identifier(rng: random.Random) -> str:
    """An identifier in one of five naming styles."""
    verb, noun = rng.choice(_VERBS), rng.choice(_NOUNS)
    return rng.choice((f"{verb}_{noun}", verb + noun.title(), noun.title() + verb.title(), noun, f"{noun}_id"))


def key(rng: random.Random) -> str:
    """A field name."""
    return rng.choice(_KEYS)


def code(rng: random.Random) -> str:
    """Source code: half Python from the standard library, half snippets in other languages; one to three pieces."""
    pieces = [
        rng.choice(_functions()) if rng.random() < 0.5 else _named(rng, rng.choice(SNIPPETS))
        for _ in range(rng.choice((1, 1, 1, 2, 3)))
    ]
    return "\n\n".join(pieces)


def fenced(rng: random.Random) -> str:
    """Fenced source code, with or without a language; sometimes unfenced."""
    fence = rng.choice(("```", "```", "```python", "```js", "```ts", "```java", "```yaml", "```cpp"))
    source = code(rng)
    return source if rng.random() < 0.2 else f"{fence}\n{source}\n```"


def cut_code(rng: random.Random) -> str:
    """Source code truncated in its second half."""
    source = code(rng)
    return source[: rng.randint(len(source) // 2, max(len(source) // 2, len(source) - 2))]


def holed(rng: random.Random, hole: str) -> str:
    """Source code with one span replaced by `hole`."""
    source = code(rng)
    start = rng.randint(len(source) // 4, len(source) // 2)
    return source[:start] + hole + source[min(len(source) - 1, start + rng.randint(4, 80)) :]


def schema(rng: random.Random) -> str:
    """A JSON Schema, compact or indented, with or without `$schema`, title and definitions."""
    found = _object(rng, depth=rng.randint(0, 2))
    if rng.random() < 0.4:
        draft = rng.choice(("draft-04", "draft-06", "draft-07"))
        found = {"$schema": f"http://json-schema.org/{draft}/schema#", **found}
    if rng.random() < 0.3:
        found = {"title": rng.choice(_NOUNS).title(), "description": f"The {rng.choice(_NOUNS)}.", **found}
    if rng.random() < 0.2:
        found = {"definitions": {rng.choice(_NOUNS): _object(rng, depth=0)}, **found}
    return json.dumps(found, indent=rng.choice((None, None, None, 2)))


def _object(rng: random.Random, *, depth: int) -> dict[str, object]:
    keys = rng.sample(_KEYS + _NOUNS, rng.randint(1, 6))
    return {
        "type": "object",
        "properties": {name: _property(rng, name, depth) for name in keys},
        "required": keys[: rng.randint(1, len(keys))],
        **({"additionalProperties": False} if rng.random() < 0.3 else {}),
    }


def _property(rng: random.Random, name: str, depth: int) -> dict[str, object]:
    if depth and rng.random() < 0.3:
        return _object(rng, depth=depth - 1)
    found: dict[str, object] = {"type": rng.choice(_TYPES)}
    if rng.random() < 0.4:
        found = {"description": f"The {name} of the {rng.choice(_NOUNS)}", **found}
    return found


def table(rng: random.Random) -> str:
    """A few rows of CSV, a Markdown table, or lines of `key: value`."""
    keys = rng.sample(_KEYS, 3)
    rows = [[rng.choice(("Ann", "Bob", "Oslo", "x")), number(rng), number(rng)] for _ in range(rng.randint(1, 4))]
    style = rng.randrange(3)
    if style == 0:
        return "\n".join(",".join(row) for row in (keys, *rows))
    if style == 1:
        return "\n".join("| " + " | ".join(row) + " |" for row in (keys, ["---"] * 3, *rows))
    return "\n".join(f"{name}: {value}" for row in rows for name, value in zip(keys, row, strict=True))


def grid(rng: random.Random) -> str:
    """A number puzzle with gaps: a string of digits, or lines of them. Not necessarily solvable."""
    size = rng.choice((4, 4, 6, 9))
    gap = rng.choice("00._")
    rows = [[str(rng.randint(1, size)) if rng.random() < 0.5 else gap for _ in range(size)] for _ in range(size)]
    between, beside = rng.choice((("", ""), ("\n", " "), ("\n", ""), ("\n", " | ")))
    return between.join(beside.join(row) for row in rows)


def config(rng: random.Random) -> str:
    """A few lines of YAML or INI."""
    sign = rng.choice((": ", " = "))
    return "\n".join(f"{rng.choice(_NOUNS)}{sign}{number(rng)}" for _ in range(rng.randint(2, 6)))


def salad(rng: random.Random, words: list[str]) -> str:
    """Random words of all prompts: words in the middle of a text are weak evidence for a task."""
    picked = [rng.choice(words) for _ in range(rng.randint(15, 90))]
    return " ".join(picked).capitalize() + rng.choice((".", ".", "?", "!"))


def noise(rng: random.Random) -> str:
    """Random letters, digits or signs of some script, which indicate no task."""
    first, last = rng.choice(
        ((33, 126), (97, 122), (48, 57), (0x400, 0x44F), (0x3B1, 0x3C9), (0x10A0, 0x10F5), (0x4E00, 0x9FA5))
    )
    words = (
        "".join(chr(rng.randint(first, last)) for _ in range(rng.randint(1, 9))) for _ in range(rng.randint(1, 40))
    )
    return " ".join(words)


def prose(rng: random.Random) -> str:
    """A paragraph of technical English."""
    return rng.choice(_paragraphs())


def fillers(grammar: "list[Grammar]") -> dict[str, Filler]:
    """The generators by the names that grammars use. `grammar` will contain the calling grammar."""

    def sample(rng: random.Random, name: str) -> str:
        return grammar[0].expand(rng, f"‹{name}›")

    def cut_sentence(rng: random.Random) -> str:
        words = sample(rng, "sentence").split(" ")
        return " ".join(words[: max(1, rng.randint(len(words) // 3, max(1, len(words) - 2)))])

    def blank_sentence(rng: random.Random) -> str:
        words = sample(rng, "sentence").split(" ")
        words[rng.randrange(len(words))] = rng.choice(("____", "[BLANK]", "___", "[MASK]"))
        return " ".join(words)

    def fence(source: str) -> str:
        return f"```\n{source}\n```"

    return {
        "n": number,
        "digit": digit,
        "identifier": identifier,
        "key": key,
        "code": code,
        "fenced": fenced,
        "cut code": cut_code,
        "fenced cut": lambda rng: fence(cut_code(rng)),
        "holed": lambda rng: holed(rng, sample(rng, "hole")),
        "fenced holed": lambda rng: fence(holed(rng, sample(rng, "hole"))),
        "cut sentence": cut_sentence,
        "blank sentence": blank_sentence,
        "schema": schema,
        "table": table,
        "grid": grid,
        "config": config,
        "file": lambda rng: rng.choice(_FILES),
        "prose": prose,
        "noise": noise,
        "salad": lambda rng: salad(rng, grammar[0].words),
        "gap": lambda rng: rng.choice(("\n\n", "\n\n", "\n", " ")),
        "colon": lambda rng: rng.choice((":", ":", ".", "")),
    }


def _named(rng: random.Random, snippet: str) -> str:
    """A snippet with random names, so that no name indicates a task."""
    return snippet.replace("NAME", identifier(rng)).replace("THING", rng.choice(_NOUNS)).replace("NUM", number(rng))


@cache
def _functions() -> list[str]:
    """Functions and methods of the quoted modules that are short enough for a prompt."""
    found: list[str] = []
    for module in _MODULES:
        source = inspect.getsource(module)
        nodes = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef))
        pieces = (ast.get_source_segment(source, node) or "" for node in nodes)
        found += [piece for piece in pieces if 80 < len(piece) < 1200]
    return sorted(set(found))


@cache
def _paragraphs() -> list[str]:
    """Paragraphs of the quoted modules' docstrings that are sentences."""
    docs = [inspect.getdoc(each) or "" for module in _MODULES for each in (module, *vars(module).values())]
    pieces = {" ".join(piece.split()) for doc in docs for piece in doc.split("\n\n")}
    return sorted(piece for piece in pieces if 80 < len(piece) < 900 and piece[0].isupper() and piece.endswith("."))
