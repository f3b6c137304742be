"""Measures each schema: compilation for a real vocabulary, answers from random logits, and their cost."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from jsonschema.validators import validator_for

from benchmarks.constraints_steps import Noise, StepMs, random_answer, spelled, step_ms
from benchmarks.left_to_right import Greedy, LeftToRight, of_canvas
from benchmarks.vocabularies import Words
from diffusion_worker.constraints.compile import Compilation, compile_constraint
from diffusion_worker.constraints.inference.matcher import open_matcher
from diffusion_worker.constraints.inference.token_set_scores import score_token_sets
from diffusion_worker.constraints.inference.viterbi import best_path
from diffusion_worker.constraints.spec import Constraint
from diffusion_worker.constraints.tokens.compilation import compile_tokens
from diffusion_worker.constraints.tokens.token_automaton import TokenAutomaton
from diffusion_worker.constraints.tokens.token_trie import TokenTrie
from diffusion_worker.errors import InvalidRequest, UnsupportedSchema

CANVAS: Final = 256
SPARE: Final = 40  # tokens beyond the shortest answer, for answers with a tight limit
ROOM: Final = 600  # for answers with a loose limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Figures of a schema that compiled."""

    id: str
    split: str
    has_check: bool  # the compiler left keywords to validation
    compile_ms: float
    token_compile_ms: float
    states: int
    edges: int
    shortest: int  # tokens, the end token counted
    answers: int
    left_to_check: int  # answers that violate a keyword that the compiler left to validation
    invalid: tuple[str, ...]
    step: StepMs
    best_logprob: float
    greedy: Greedy | None

    @property
    def total_ms(self) -> float:
        """Compile time including token compilation."""
        return self.compile_ms + self.token_compile_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A schema that did not compile, and the keyword for which it was refused."""

    id: str
    split: str
    keyword: str


def measure_rows(
    file: Path, words: Words, *, seeds: int, limit: int | None, guided: LeftToRight | None
) -> Iterator[Row | Refusal]:
    """Measure every schema of a file, one after the other."""
    vocabulary = words.read()
    noise = [Noise(canvas=CANVAS, vocab=vocabulary.size, seed=seed) for seed in range(seeds)]
    for line in file.read_text().splitlines()[:limit]:
        document = json.loads(line)
        started = time.thread_time()
        try:
            compiled = compile_constraint(Constraint(kind="json_schema", value=document["schema"]))
        except InvalidRequest as refused:
            keyword = refused.keyword if isinstance(refused, UnsupportedSchema) else "not a schema"
            yield Refusal(id=document["id"], split=document["split"], keyword=keyword)
            continue
        compile_ms = 1000 * (time.thread_time() - started)
        yield _row(document, compiled, compile_ms, words=words, vocabulary=vocabulary, tools=(noise, guided))


def _row(
    document: dict[str, Any],
    compiled: Compilation,
    compile_ms: float,
    *,
    words: Words,
    vocabulary: TokenTrie,
    tools: tuple[Sequence[Noise], LeftToRight | None],
) -> Row:
    started = time.thread_time()
    automaton = compile_tokens(compiled.automaton, vocabulary)
    token_compile_ms = 1000 * (time.thread_time() - started)
    assert automaton is not None, f"{document['id']}: no token sequence spells an answer"
    noise, left_to_right = tools
    logits = noise[0].canvas_of(3.0)
    checker = AnswerChecker(document["schema"], has_check=bool(compiled.needs_check))
    for one in noise:
        checker.try_answers(automaton, one, words)
    return Row(
        id=document["id"],
        split=document["split"],
        has_check=bool(compiled.needs_check),
        compile_ms=compile_ms,
        token_compile_ms=token_compile_ms,
        states=automaton.states,
        edges=automaton.edges,
        shortest=int(automaton.distance[automaton.start]),
        answers=checker.answers,
        left_to_check=checker.left_to_check,
        invalid=tuple(checker.invalid),
        step=step_ms(automaton, logits),
        best_logprob=_best_logprob(automaton, logits),
        greedy=left_to_right.decode(document["schema"], of_canvas(logits)) if left_to_right else None,
    )


class AnswerChecker:
    """Decode answers of one schema and check them against jsonschema."""

    def __init__(self, schema: Any, *, has_check: bool) -> None:
        cls = validator_for(schema)
        self._validator = cls(schema, format_checker=cls.FORMAT_CHECKER)
        self._has_check = has_check
        self.answers = 0
        self.left_to_check = 0
        self.invalid = list[str]()

    def try_answers(self, automaton: TokenAutomaton, noise: Noise, words: Words) -> None:
        """Decode and check answers with tight and loose limits, as best paths and as joint samples."""
        shortest = int(automaton.distance[automaton.start])
        for budget in (shortest, shortest + SPARE, shortest + ROOM):
            for is_sampled in (False, True):
                self.take(spelled(words, random_answer(automaton, noise, budget, is_sampled=is_sampled)))

    def take(self, text: str) -> None:
        """Check one answer."""
        self.answers += 1
        if self._validator.is_valid(json.loads(text)):
            return
        if self._has_check:
            self.left_to_check += 1
        else:
            self.invalid.append(text)


def _best_logprob(automaton: TokenAutomaton, logits: np.ndarray[Any, np.dtype[np.float32]]) -> float:
    """Log probability of the best path over a whole canvas on which the answer must close; -inf if it cannot."""
    if automaton.distance[automaton.start] > CANVAS:
        return float("-inf")
    return best_path(open_matcher(automaton, CANVAS), score_token_sets(automaton.token_sets, logits)).logprob
