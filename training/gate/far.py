"""Far strangers: prompts that no checkpoint of this size answers, in two sets that share no family.

Text of the standard library is code and prose that nobody here wrote.
"""

import importlib
import inspect
import random
from collections.abc import Sequence
from functools import cache
from typing import Final

from training.gate.rows import Family, Prompt
from training.word_lists import ADJECTIVES, NOUNS, PLACES, THINGS, invented

_QUESTIONS_A: Final = (
    "¿Cuál es la capital de {}?",
    "Explícame por qué {} es importante.",
    "Quelle est la différence entre {} et une table ?",
    "Écris un poème sur {}.",
    "Was bedeutet das Wort {}?",
    "Schreibe eine kurze Geschichte über {}.",
    "{}とは何ですか？",
    "{}について教えてください。",
    "Mi a különbség a {} és a ház között?",
    "Hva betyr {} på norsk?",
)
_QUESTIONS_B: Final = (
    "Qual é a origem da palavra {}?",
    "Escreva uma carta sobre {}.",
    "Perché {} è così famoso?",
    "Riassumi la storia di {} in due frasi.",
    "什么是{}？请用简单的话解释。",
    "Что такое {}?",
    "Jak działa {}?",
    "{}은 무엇입니까?",
    "ما هو {}؟",
    "Vad är {} bra för?",
)
_CHATS: Final = (
    "What is the best way to learn about {}?",
    "Summarize the history of {} in three sentences.",
    "Translate '{}' into French.",
    "Write a short poem about {}.",
    "Explain {} to a five-year-old.",
    "Compare {} and {} for a small company.",
    "I feel sad about my {}. What should I do?",
    "Give me ten names for a shop that sells {}.",
    "Write a Python function that sorts a list of {} by date.",
    "Is it safe to put {} in the dishwasher?",
    "Plan a weekend in {} for two people.",
    "hi",
    "thanks, that helped. And what about {}?",
    "Describe the picture of the {}.",
    "Who won the {} cup in 1998?",
    "How many calories are in {}?",
)
_SHORT_A: Final = ("ok", "yes", "test", "hello there", "why?", "go on", "json", "fix it", "42", "¿sí?", "...")
_MODULES_A: Final = "argparse calendar csv difflib heapq inspect mailbox pathlib shutil zipfile".split()
_MODULES_B: Final = "sched cmd doctest fractions gettext logging optparse statistics textwrap".split()
_LONGEST: Final = 300  # characters of a passage


def _topic(rng: random.Random) -> str:
    words = (invented(rng), rng.choice(NOUNS), f"{rng.choice(ADJECTIVES)} {rng.choice(THINGS)}", rng.choice(PLACES))
    return rng.choice(words)


def _asked(templates: Sequence[str]) -> Family:
    def generate(rng: random.Random) -> Prompt:
        return rng.choice(templates).format(_topic(rng), _topic(rng)), None

    return generate


@cache
def _source(module: str) -> str:
    return inspect.getsource(importlib.import_module(module))


def _code(modules: Sequence[str]) -> Family:
    """Some lines of a module, alone or under a request."""

    def generate(rng: random.Random) -> Prompt:
        lines = _source(rng.choice(modules)).splitlines()
        first = rng.randrange(len(lines) - 12)
        passage = "\n".join(lines[first : first + rng.randint(2, 12)])[:_LONGEST]
        asked = rng.choice(("{}", "Review this code:\n{}", "{}\n\nWhat does this do?", "Add type hints:\n{}"))
        return asked.format(passage), None

    return generate


def _documentation(modules: Sequence[str]) -> Family:
    """A passage of a module's documentation, alone or under a request."""

    def generate(rng: random.Random) -> Prompt:
        text = rng.choice(_documented(rng.choice(modules)))
        first = rng.randrange(max(1, len(text) - _LONGEST))
        asked = rng.choice(("{}", "Summarize: {}", "Translate to German: {}", "{}\n\nShorten this."))
        return asked.format(text[first : first + rng.randint(40, _LONGEST)]), None

    return generate


@cache
def _documented(module: str) -> tuple[str, ...]:
    loaded = importlib.import_module(module)
    own = [each for each in vars(loaded).values() if getattr(each, "__module__", None) == module]
    methods = [method for each in own if inspect.isclass(each) for method in vars(each).values()]
    found = [getattr(each, "__doc__", None) for each in (loaded, *own, *methods) if not isinstance(each, str)]
    return tuple(inspect.cleandoc(text) for text in found if isinstance(text, str) and len(text) > 40)


def _log(rng: random.Random) -> Prompt:
    line = f"2026-{rng.randint(1, 12):02}-{rng.randint(1, 28):02} {rng.randint(0, 23):02}:{rng.randint(0, 59):02} ERROR"
    code = rng.randint(100, 599)
    return rng.choice(
        (
            f"{line} [{_topic(rng)}] connection to {_topic(rng)} refused after {code} ms",
            f"EXPLAIN {invented(rng)}.{invented(rng)} ORDER BY {invented(rng)} LIMIT {code};",
            f"{invented(rng)};{code};{invented(rng)}\n{invented(rng)};{code + 1}\nAverage of column 2?",
            f"curl -s https://example.com/{invented(rng)}?id={code} | jq .{invented(rng)}",
        )
    ), None


CHOSEN_ON: Final[dict[str, Family]] = {
    "questions A": _asked(_QUESTIONS_A),
    "short messages": _asked(_SHORT_A),
    "code A": _code(_MODULES_A),
    "documentation A": _documentation(_MODULES_A),
}
MEASURED_ON: Final[dict[str, Family]] = {
    "questions B": _asked(_QUESTIONS_B),
    "chats": _asked(_CHATS),
    "code B": _code(_MODULES_B),
    "documentation B": _documentation(_MODULES_B),
    "logs and queries": _log,
}
