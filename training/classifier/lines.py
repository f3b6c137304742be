"""Requests by many writers: `lines/WRITER.jsonl`, one JSON object per line, each written by hand.

Every writer had a brief of its own (a person, tool or product, a language, materials) and saw the definitions of the
tasks and nobody else's lines. `python -m training.classifier.lines` counts them and names lines that are too alike.

A line has `task`, `also_ok` (labels that are as defensible), `lang`, and one of four forms:

* instruction: what is asked of a text of the kind `material` that stands beside it, `before` or `after` it (`place`)
* complete: a whole request with its own text
* followup: turns of a conversation; the label is that of the last turn
* system: the task is set by the system prompt of an application, `text` is what the user sends
"""

import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from gateway.enums import Task

LINES: Final = Path(__file__).parent / "lines"
MATERIALS: Final = frozenset("prose email code json table log diff article transcript notes none".split())
MAX_SHARED: Final = 0.5  # of a line's trigrams with another line
_WORD: Final = re.compile(r"\w+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One request. `asked` is what the last turn says; `before` are earlier turns as (role, content)."""

    writer: str
    number: int
    task: Task
    also_ok: tuple[Task, ...]
    lang: str
    form: str
    asked: str
    system: str = ""
    before: tuple[tuple[str, str], ...] = ()
    material: str = "none"
    place: str = ""

    @property
    def name(self) -> str:
        """Where it stands."""
        return f"{self.writer}:{self.number}"


def read_lines(folder: Path = LINES) -> Iterator[Line]:
    """All lines of all writers. Raises ValueError or KeyError for one that is not of the form above."""
    for path in sorted(folder.glob("*.jsonl")):
        for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            yield _line(path.stem, number, json.loads(text))


@cache
def kinds_of_writers(path: Path = LINES / "kinds.txt") -> dict[str, str]:
    """The kind of use of each writer, by which whole kinds are left out."""
    lines = (line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#"))
    return {writer: kind for kind, writers in (line.split(": ", 1) for line in lines) for writer in writers.split()}


@cache
def plain_writers(path: Path = LINES / "plain.txt") -> frozenset[str]:
    """The writers who use the usual words."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return frozenset(name for line in lines if not line.startswith("#") for name in line.split())


def too_alike(lines: Iterable[Line]) -> Iterator[tuple[Line, Line]]:
    """Pairs that share more than half of their trigrams: of the shorter one, if they have one form; otherwise of each,
    because a follow-up of three words occurs in many a whole request."""
    by_trigram: defaultdict[Any, list[int]] = defaultdict(list)
    kept: list[tuple[Line, int]] = []
    for line in lines:
        trigrams = _trigrams(f"{line.system}\n{line.asked}")
        shared = Counter(other for each in trigrams for other in by_trigram[each])
        for other, count in shared.items():
            one, size = kept[other]
            counted = min if one.form == line.form else max
            if count > MAX_SHARED * counted(len(trigrams), size):
                yield one, line
        for each in trigrams:
            by_trigram[each].append(len(kept))
        kept.append((line, len(trigrams)))


def _line(writer: str, number: int, found: dict[str, Any]) -> Line:
    form = found["form"]
    line = Line(
        writer=writer,
        number=number,
        task=Task(found["task"]),
        also_ok=tuple(map(Task, found["also_ok"])),
        lang=found["lang"],
        form=form,
        **_content(form, found),
    )
    if line.material not in MATERIALS or line.place not in ("", "before", "after"):
        raise ValueError(f"{line.name}: unknown material {line.material!r} or place {line.place!r}")
    if line.task in line.also_ok or not (line.asked.strip() or line.system.strip()):
        raise ValueError(f"{line.name}: the label is repeated, or nothing is asked")
    return line


def _content(form: str, found: dict[str, Any]) -> dict[str, Any]:
    if form == "instruction":
        return {"asked": found["instruction"], "material": found["material"], "place": found.get("place", "")}
    if form == "complete":
        return {"asked": found["text"]}
    if form == "system":
        return {"asked": found["text"], "system": found["system"]}
    if form != "followup":
        raise ValueError(f"unknown form {form!r}")
    turns = [(turn["role"], turn["content"]) for turn in found["turns"]]
    system = "\n".join(content for role, content in turns if role == "system")
    spoken = [turn for turn in turns if turn[0] != "system"]
    if spoken[-1][0] != "user":
        raise ValueError("the last turn is not the user's")
    return {"asked": spoken[-1][1], "system": system, "before": tuple(spoken[:-1])}


def _trigrams(text: str) -> set[Any]:
    """Of words; of characters where there are fewer than three words, as in Chinese or Japanese."""
    words = _WORD.findall(text.lower())
    if len(words) >= 3:
        return set(zip(words, words[1:], words[2:], strict=False))
    joined = "".join(words)
    return {joined[at : at + 3] for at in range(max(1, len(joined) - 2))}


def main(folder: Path = LINES) -> int:
    """Print the counts and the pairs that are too alike; exit code 1 if there are any."""
    lines = list(read_lines(folder))
    writers, languages = {line.writer for line in lines}, {line.lang for line in lines}
    print(f"{len(lines)} lines by {len(writers)} writers in {len(languages)} languages")
    by_task, by_form = Counter(line.task.value for line in lines), Counter(line.form for line in lines)
    for name, counts in (("task", by_task), ("form", by_form)):
        print(f"{name}: {', '.join(f'{key} {count}' for key, count in counts.most_common())}")
    pairs = list(too_alike(lines))
    for one, other in pairs:
        print(f"too alike: {one.name} and {other.name}: {other.asked[:80]!r}")
    return 1 if pairs else 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:2])))
