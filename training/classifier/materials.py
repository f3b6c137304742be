"""Texts to put beside an instruction: real source code and prose of installed packages, and what writers pasted.

None of them was written for a task, and each is put beside instructions of every task, so their topics tell nothing.
Sentences of real prose are also arranged as e-mails, transcripts, notes, logs and tables, and two versions of one
function as a diff.
"""

import ast
import difflib
import importlib
import inspect
import json
import random
import re
import textwrap
from collections.abc import Callable, Sequence
from functools import cache
from types import ModuleType
from typing import Final

# Modules of the standard library, which is the same on every machine with this version of Python.
TRAINING: Final = tuple(
    "argparse bisect calendar csv dataclasses difflib fractions heapq shutil statistics textwrap string random"
    " json.encoder email.message http.client logging configparser zipfile tarfile sched cmd pprint gettext"
    " locale mailbox optparse ftplib smtplib imaplib urllib.parse urllib.request ipaddress typing enum functools"
    " collections".split()
)
# Of packages that the gateway needs: no text of theirs is trained on.
HELD_OUT: Final = tuple(
    "numpy.lib._function_base_impl numpy.linalg._linalg aiohttp.client aiohttp.web_response aiohttp.multipart"
    " fastapi.routing fastapi.applications starlette.responses starlette.staticfiles rich.console rich.table"
    " redis.client uvicorn.config yarl._url prometheus_client.registry".split()
)
_NAMES: Final = "Rosa Ibrahim Mei Tom Priya Ken Lena Omar Chloe Jonas Aiko Paulo".split()
_LEVELS: Final = "INFO WARN ERROR DEBUG".split()
_SENTENCE: Final = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")


class Materials:
    """Texts by kind, from the given modules; `pasted` are texts of writers, by language."""

    def __init__(self, modules: Sequence[str], pasted: dict[str, list[str]] | None = None) -> None:
        self.functions, self.paragraphs = _code_of(tuple(modules)), _prose_of(tuple(modules))
        self.sentences = [each for text in self.paragraphs for each in _SENTENCE.split(text) if 30 < len(each) < 220]
        self.pasted = pasted or {}
        self._kinds: dict[str, Callable[[random.Random], str]] = {
            "prose": self._prose,
            "article": self._article,
            "email": self._email,
            "transcript": self._dialogue,
            "notes": self._notes,
            "log": self._log,
            "table": self._table,
            "json": self._json,
            "code": self._code,
            "diff": self._diff,
        }

    def write(self, rng: random.Random, kind: str, lang: str) -> str:
        """A text of the kind, in the language if there are pasted texts in it."""
        texts = self.pasted.get(lang, ())
        if kind in _PROSE_LIKE and texts and (lang != "en" or rng.random() < 0.5):
            return rng.choice(texts)
        return self._kinds[kind](rng)

    def _some(self, rng: random.Random, low: int, high: int) -> list[str]:
        return [rng.choice(self.sentences) for _ in range(rng.randint(low, high))]

    def _prose(self, rng: random.Random) -> str:
        if rng.random() < 0.4:
            return " ".join(self._some(rng, 1, 1 if rng.random() < 0.6 else 2))
        return "\n\n".join(rng.choice(self.paragraphs) for _ in range(rng.choice((1, 1, 1, 2))))

    def _article(self, rng: random.Random) -> str:
        title = " ".join(rng.choice(self.sentences).split()[:6]).rstrip(".,:;").title()
        body = "\n\n".join(rng.choice(self.paragraphs) for _ in range(rng.randint(2, 5)))
        return f"{title}\n\n{body}" if rng.random() < 0.5 else body

    def _email(self, rng: random.Random) -> str:
        who, sender = rng.sample(_NAMES, 2)
        head = rng.choice((f"Hi {who},", f"Dear {who},", f"Hello {who}", f"{who},"))
        if rng.random() < 0.3:
            subject = " ".join(rng.choice(self.sentences).split()[:5])
            head = f"From: {sender}\nTo: {who}\nSubject: {subject}\n\n{head}"
        close = rng.choice(("Best,", "Kind regards,", "Thanks,", "Cheers", "BR"))
        return f"{head}\n\n{' '.join(self._some(rng, 1, 5))}\n\n{close}\n{sender}"

    def _dialogue(self, rng: random.Random) -> str:
        who = rng.sample(_NAMES, 3)
        minute = rng.randint(0, 30)
        times = rng.random() < 0.5
        lines = [
            f"[{9 + (minute + at) // 60:02}:{(minute + at) % 60:02}] {rng.choice(who)}: {text}"
            if times
            else f"{rng.choice(who)}: {text}"
            for at, text in enumerate(self._some(rng, 3, 9))
        ]
        return "\n".join(lines)

    def _notes(self, rng: random.Random) -> str:
        sign = rng.choice(("- ", "* ", "", "• "))
        return "\n".join(
            sign + " ".join(each.split()[: rng.randint(3, 12)]).rstrip(".") for each in self._some(rng, 3, 8)
        )

    def _log(self, rng: random.Random) -> str:
        day, lines = rng.randint(1, 28), []
        for text in self._some(rng, 4, 10):
            clock = ":".join(f"{rng.randint(0, most):02}" for most in (23, 59, 59))
            stamp = f"2025-{rng.randint(1, 12):02}-{day:02} {clock}"
            lines.append(f"{stamp} {rng.choice(_LEVELS)} {self._key(rng)}: {' '.join(text.split()[:9])}")
        return "\n".join(lines)

    def _key(self, rng: random.Random) -> str:
        found = re.findall(r"\b[a-z_]{3,14}\b", rng.choice(self.functions))
        return rng.choice(found) if found else "value"

    def _table(self, rng: random.Random) -> str:
        keys = [self._key(rng) for _ in range(rng.randint(2, 5))]
        rows = [
            [rng.choice((rng.choice(_NAMES), str(rng.randint(1, 999)), self._key(rng))) for _ in keys]
            for _ in range(rng.randint(2, 8))
        ]
        style = rng.randrange(3)
        if style == 0:
            return "\n".join(",".join(row) for row in (keys, *rows))
        if style == 1:
            return "\n".join("| " + " | ".join(row) + " |" for row in (keys, ["---"] * len(keys), *rows))
        return "\n".join("\t".join(row) for row in (keys, *rows))

    def _json(self, rng: random.Random) -> str:
        def record() -> dict[str, object]:
            return {
                self._key(rng): rng.choice(
                    (rng.randint(0, 999), rng.choice(_NAMES), rng.choice(self.sentences), True, None)
                )
                for _ in range(rng.randint(2, 6))
            }

        document: object = record() if rng.random() < 0.5 else [record() for _ in range(rng.randint(2, 5))]
        return json.dumps(document, indent=rng.choice((None, 2, 2, 4)))

    def _code(self, rng: random.Random) -> str:
        return "\n\n".join(rng.choice(self.functions) for _ in range(rng.choice((1, 1, 1, 2))))

    def _diff(self, rng: random.Random) -> str:
        old = rng.choice(self.functions)
        name, lines = self._key(rng), old.split("\n")
        at = rng.randrange(len(lines))
        new = [
            *lines[:at],
            *(rng.choice(self.functions).split("\n")[1 : rng.randint(2, 4)]),
            *lines[at + rng.randint(0, 2) :],
        ]
        found = difflib.unified_diff(lines, new, f"a/{name}.py", f"b/{name}.py", lineterm="", n=2)
        head = f"diff --git a/{name}.py b/{name}.py\n" if rng.random() < 0.5 else ""
        return head + "\n".join(found)


_PROSE_LIKE: Final = frozenset(("prose", "email", "article", "transcript", "notes"))


@cache
def _modules(names: tuple[str, ...]) -> list[ModuleType]:
    return [importlib.import_module(name) for name in names]


@cache
def _code_of(modules: tuple[str, ...]) -> tuple[str, ...]:
    """Functions and methods that are short enough for a request."""
    found: set[str] = set()
    for module in _modules(modules):
        source = inspect.getsource(module)
        lines = source.splitlines()
        nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
        pieces = ("\n".join(lines[node.lineno - 1 : node.end_lineno]) for node in nodes)
        found.update(piece for each in pieces if 80 < len(piece := textwrap.dedent(each)) < 1200)
    return tuple(sorted(found))


@cache
def _prose_of(modules: tuple[str, ...]) -> tuple[str, ...]:
    """Paragraphs of docstrings that are sentences."""
    found: set[str] = set()
    for module in _modules(modules):
        nodes = list(ast.walk(ast.parse(inspect.getsource(module))))
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        docs = [ast.get_docstring(node) or "" for node in nodes if isinstance(node, kinds)]
        pieces = (" ".join(piece.split()) for doc in docs for piece in doc.split("\n\n"))
        found.update(piece for piece in pieces if 80 < len(piece) < 900 and piece[0].isupper() and piece.endswith("."))
    return tuple(sorted(found))
