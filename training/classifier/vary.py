"""Lines that a program varies before it composes requests of them, for training only: what is measured stays as its
writer wrote it.

A request may say how its answer is to look (so many words, no commas, only the result), which changes nothing in its
task, unless the answer is to be data. A follow-up may come after the past of another one with the same task, and so may
an instruction.
"""

import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

from gateway.enums import Task
from training.classifier.lines import Line

DEMAND_SHARE: Final = 0.12  # of the requests in a language with demands
DATA_SHARE: Final = 0.08  # of the chats in such a language
OTHER_PAST_SHARE: Final = 0.3  # of the follow-ups
FOLLOWUP_SHARE: Final = 0.05  # of the instructions with a text
_MORE: Final = (1, 1, 1, 2, 2, 3)  # demands of one request
_FILE: Final = Path(__file__).with_name("demands.txt")
_TEXT_KINDS: Final = frozenset(("prose", "email", "article", "notes", "code"))

Past = tuple[tuple[str, str], ...]


def read_demands(path: Path = _FILE) -> dict[tuple[str, str], tuple[str, ...]]:
    """Phrases by language and kind."""
    lines = (line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    found = {}
    for name, phrases in (line.split(": ", 1) for line in lines):
        lang, kind = name.split()
        found[lang, kind] = tuple(phrases.split(" | "))
    return found


DEMANDS: Final = read_demands()


class Variation:
    """Varies lines, with the pasts of the follow-ups among the given ones."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self._pasts: defaultdict[tuple[Task, bool, str], list[Past]] = defaultdict(list)
        for line in lines:
            if line.form == "followup":
                self._pasts[line.task, _is_code(line.before), line.lang].append(line.before)

    def __call__(self, rng: random.Random, line: Line) -> Line:
        """The line, or a variant of it."""
        if line.form == "followup":
            return self._after(rng, line, is_code=_is_code(line.before)) if rng.random() < OTHER_PAST_SHARE else line
        if line.form == "instruction" and line.material in _TEXT_KINDS and rng.random() < FOLLOWUP_SHARE:
            return self._after(rng, line, is_code=line.material == "code")
        return _with_demand(rng, line)

    def _after(self, rng: random.Random, line: Line, *, is_code: bool) -> Line:
        """The line after the past of a follow-up of its task, language and kind of text; itself if there is none."""
        pasts = self._pasts.get((line.task, is_code, line.lang))
        return replace(line, form="followup", before=rng.choice(pasts)) if pasts else line


def _with_demand(rng: random.Random, line: Line) -> Line:
    """The line, sometimes with demands on the form of the answer."""
    if line.form == "system" or line.task in (Task.AUTOCOMPLETE, Task.AGENT):
        return line
    data, answer = DEMANDS.get((line.lang, "data"), ()), DEMANDS.get((line.lang, "answer"), ())
    if data and line.task is Task.CHAT and line.material == "none" and rng.random() < DATA_SHARE:
        more = rng.sample(answer, rng.choice((0, 0, 1, 2)))
        varied = _joined(rng, line, [rng.choice(data), *more])
        return replace(varied, task=Task.STRUCTURED, also_ok=(Task.CHAT,))
    if answer and rng.random() < DEMAND_SHARE:
        return _joined(rng, line, rng.sample(answer, rng.choice(_MORE)))
    return line


def _joined(rng: random.Random, line: Line, demands: list[str]) -> Line:
    """The demands before or behind what is asked."""
    rng.shuffle(demands)
    space = "" if line.lang in ("ja", "zh") else " "
    said = space.join(demands)
    asked = line.asked.rstrip()
    if asked[-1:].isalnum():
        asked += "。" if not space else "."
    if line.form == "instruction" and rng.random() < 0.15:
        return replace(line, asked=f"{said}{space}{asked}")
    gap = "\n\n" if "\n" in asked else space
    return replace(line, asked=f"{asked}{gap}{said}")


def _is_code(before: Past) -> bool:
    """Whether the assistant's last answer looks like code or data."""
    answer = next((text for role, text in reversed(before) if role == "assistant"), "")
    return "```" in answer or sum(answer.count(sign) for sign in "{}()[]=;|") * 20 > len(answer)
