"""Labelled prompts: a template of a task's grammar, expanded, in one of many registers, sometimes with a system prompt.

Templates are held out completely: prompts of `HELD_OUT` use templates that the fit has never seen.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.enums import Task
from training.classifier.contexts import fillers
from training.classifier.grammar import Grammar, Rules, read_rules, share_of

PROMPTS: Final = Path(__file__).parent / "prompts"
FIT: Final = frozenset(range(8))
HELD_OUT: Final = frozenset({8, 9})
EVERYTHING: Final = FIT | HELD_OUT

_OPENERS = (
    "Hi, |Hello! |Please |please |pls |Hey, |Can you |OK. |Q: |Dear assistant, |i need help: |Task: |1. |> ".split("|")
)
_CLOSERS = " Thanks!| thank you| please|\n\nThanks in advance.| asap|!!|\n| Be concise.| Take your time.| 🙏".split("|")
_REFERENCE = re.compile(r"‹([^›]+)›")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """The classifier's input for one request, and its label."""

    task: Task
    system: str
    user: str


class PromptGenerator:
    """Generates prompts from the tenths of the templates in `shares`."""

    def __init__(self, shares: frozenset[int], folder: Path = PROMPTS) -> None:
        rules: Rules = {}
        for path in sorted(folder.glob("*.txt")):
            rules |= read_rules(path)
        context: list[Grammar] = []
        self._grammar = Grammar(rules, fillers(context))
        context.append(self._grammar)
        self._groups = {task: self._groups_of(rules, task, shares) for task in Task}

    def _groups_of(self, rules: Rules, task: Task, shares: frozenset[int]) -> list[list[str]]:
        """For every line of the task's rules, the templates that it expands to, limited to `shares`."""
        roots = (task.value, f"{task} code", f"{task} foreign")
        found = [list(self._leaves(rules, line)) for name in roots for line in rules.get(name, ())]
        kept = [[leaf for leaf in leaves if share_of(leaf) in shares] for leaves in found]
        return [leaves for leaves in kept if leaves]

    def _leaves(self, rules: Rules, line: str) -> Iterator[str]:
        """A line that only references a rule expands to the lines of that rule."""
        alone = _REFERENCE.fullmatch(line)
        if alone is None or alone[1] not in rules:
            yield line
            return
        for inner in rules[alone[1]]:
            yield from self._leaves(rules, inner)

    def lines(self, task: Task) -> set[str]:
        """The templates of a task."""
        return {line for leaves in self._groups[task] for line in leaves}

    def write(self, rng: random.Random, task: Task) -> Example:
        """Generate one prompt of a task."""
        text = self._grammar.expand(rng, rng.choice(rng.choice(self._groups[task])))
        if rng.random() < 0.12:
            text = self._with_negation(rng, task, text)
        return Example(task=task, system=self._system(rng, task), user=rephrased(rng, text))

    def _with_negation(self, rng: random.Random, task: Task, text: str) -> str:
        """The prompt with a negated instruction of another task, which must not change its label."""
        other = rng.choice([each for each in Task if each is not task])
        denied = self._grammar.expand(rng, f"‹not {other}›")
        lowered = text[:1].lower() + text[1:]
        before = (f"{denied}, {lowered}", f"{denied}; {lowered}", f"{denied}. {text}")
        after = (f"{text}\n\n{denied}.", f"{text} {denied}.")
        return rng.choice((*before, *after))

    def _system(self, rng: random.Random, task: Task) -> str:
        """A system prompt: mostly none, otherwise a general one or one of the task."""
        sample = rng.random()
        if sample < 0.65:
            return ""
        return self._grammar.expand(rng, "‹plain system›" if sample < 0.85 else f"‹{task} system›")


def examples(seed: int, *, count: int, shares: frozenset[int] = EVERYTHING) -> list[Example]:
    """`count` prompts, cycling through the tasks; deterministic for a seed."""
    rng, generator, tasks = random.Random(seed), PromptGenerator(shares), list(Task)
    return [generator.write(rng, tasks[index % len(tasks)]) for index in range(count)]


def task_words(folder: Path = PROMPTS) -> set[str]:
    """The words of the task templates, in lower case, without those of contexts."""
    rules = [read_rules(folder / f"{task}.txt") for task in Task]
    return {word.lower() for each in rules for word in Grammar(each, {}).words}


def rephrased(rng: random.Random, text: str) -> str:
    """The prompt in another register: openers, closers, lower case, missing punctuation, typos."""
    if rng.random() < 0.18:
        opener = rng.choice(_OPENERS)
        text = opener + (text[:1].lower() + text[1:] if opener.endswith(", ") else text)
    if rng.random() < 0.1:
        text += rng.choice(_CLOSERS)
    if rng.random() < 0.15:
        text = text.lower()
    if rng.random() < 0.06:
        text = text.rstrip("?.!:")
    if rng.random() < 0.08:
        text = _with_typos(rng, text)
    return text


def _with_typos(rng: random.Random, text: str) -> str:
    """Insert one to three typos."""
    for _ in range(rng.randint(1, 3)):
        if len(text) < 4:
            break
        at = rng.randrange(min(len(text), 200) - 2)
        middle = rng.choice(("", text[at + 1] + text[at], rng.choice(_LETTERS) + text[at + 1]))
        text = text[:at] + middle + text[at + 2 :]
    return text
