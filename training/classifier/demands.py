"""What requests say of the form of their answers: so many words, no commas, only the result.

It changes nothing in the task, unless the answer is to be data. A program adds it to lines, for training only: what is
measured stays as its writer wrote it.
"""

import random
from dataclasses import replace
from pathlib import Path
from typing import Final

from gateway.enums import Task
from training.classifier.lines import Line

# Of the requests in English; there are few phrases in other languages, which would be learned by heart.
ENGLISH_SHARE: Final = 0.05
OTHER_SHARE: Final = 0.02
DATA_SHARE: Final = 0.04  # of the chats in a language with demands that are without a text
_MORE: Final = (1, 1, 1, 2, 2, 3)  # demands of one request
_SPACELESS: Final = ("ja", "zh")
_FILE: Final = Path(__file__).with_name("demands.txt")


def read_demands(path: Path = _FILE) -> dict[tuple[str, str], tuple[str, ...]]:
    """Phrases by language and kind."""
    lines = (line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    found = {}
    for name, phrases in (line.split(": ", 1) for line in lines):
        lang, kind = name.split()
        found[lang, kind] = tuple(phrases.split(" | "))
    return found


DEMANDS: Final = read_demands()


def with_demands(rng: random.Random, line: Line) -> Line:
    """The line, sometimes with demands on the form of the answer."""
    if line.form not in ("instruction", "complete") or line.task in (Task.AUTOCOMPLETE, Task.AGENT):
        return line
    data, answer = DEMANDS.get((line.lang, "data"), ()), DEMANDS.get((line.lang, "answer"), ())
    if data and line.task is Task.CHAT and line.material == "none" and rng.random() < DATA_SHARE:
        said = [rng.choice(data), *rng.sample(answer, rng.choice((0, 0, 1, 2)))]
        return replace(_joined(rng, line, said), task=Task.STRUCTURED, also_ok=(Task.CHAT,))
    if answer and rng.random() < (ENGLISH_SHARE if line.lang == "en" else OTHER_SHARE):
        return _joined(rng, line, rng.sample(answer, rng.choice(_MORE)))
    return line


def _joined(rng: random.Random, line: Line, said: list[str]) -> Line:
    """The demands behind what is asked, or before it."""
    rng.shuffle(said)
    space = "" if line.lang in _SPACELESS else " "
    demands, asked = space.join(said), line.asked.rstrip()
    if asked[-1:].isalnum():
        asked += "." if space else "。"
    if line.form == "instruction" and rng.random() < 0.15:
        return replace(line, asked=f"{demands}{space}{asked}")
    gap = "\n\n" if "\n" in asked else space
    return replace(line, asked=f"{asked}{gap}{demands}")
