"""The trained stage, with a model of a few words that is easy to check by hand."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from gateway.classifier.features import TABLE_ROWS, features
from gateway.classifier.hashing import hash_buckets, word_hash
from gateway.classifier.model import KNOWN_BITS, LearnedStage, TaskModel
from gateway.enums import Task
from gateway.routing.classify import STAGES, classify
from gateway.types import Query

MakeQuery = Callable[..., Query]
TASKS = (Task.TRANSLATE, Task.CHAT)


def model(*, named: tuple[str, ...] = ("translate",), strength: float = 50.0) -> TaskModel:
    """A model of one word, which indicates translation."""
    weights = np.zeros((TABLE_ROWS, 2), dtype=np.float32)
    weights[features(system="", user="translate").rows[0], 0] = strength
    known = np.zeros(1 << KNOWN_BITS, dtype=np.bool_)
    known[hash_buckets(np.array([word_hash("translate")], dtype=np.uint32), KNOWN_BITS)] = True
    return TaskModel(tasks=TASKS, weights=weights, known=known, vocabulary={word_hash(word): word for word in named})


def test_the_most_probable_task_is_returned_with_its_strongest_words(query: MakeQuery) -> None:
    found = LearnedStage(model())(query(last_user_text="Please TRANSLATE my secret"))
    assert found is not None
    assert (found.task, found.evidence) == (Task.TRANSLATE, "words: translate")
    assert found.confidence > 0.9


def test_confidence_is_the_probability_of_the_task(query: MakeQuery) -> None:
    text, small = "translate it now", model(strength=2.0)
    found, seen = LearnedStage(small)(query(last_user_text=text)), features(system="", user=text)
    score = float(seen.weights @ small.weights[seen.rows, 0])
    assert found is not None
    assert found.confidence == pytest.approx(1 / (1 + math.exp(-score)), rel=1e-5)


def test_the_evidence_names_only_words_of_the_models_vocabulary(query: MakeQuery) -> None:
    """The evidence is logged, prompts are not."""
    found = LearnedStage(model(named=()))(query(last_user_text="translate"))
    assert found is not None
    assert found.evidence == "words"


@pytest.mark.parametrize("text", ["", "  ", "\n\t\n", "\u3000", "?!", "]]}}"])
def test_a_request_without_words_is_not_classified(query: MakeQuery, text: str) -> None:
    assert LearnedStage(model())(query(last_user_text=text, system_text="translate")) is None
    assert classify(query(last_user_text=text), (*STAGES, LearnedStage(model()))).evidence == "none"


def test_evidence_from_structure_precedes_the_words(query: MakeQuery) -> None:
    found = classify(query(last_user_text="translate", has_tools=True), (*STAGES, LearnedStage(model())))
    assert (found.task, found.evidence) == (Task.AGENT, "tools")


def test_mostly_unknown_words_reduce_the_confidence(query: MakeQuery) -> None:
    stage = LearnedStage(model(strength=500.0))
    confidences = [
        found.confidence
        for unknown in (0, 3, 7, 31)
        if (found := stage(query(last_user_text="translate" + " qzx" * unknown)))
    ]
    assert confidences[:2] == [pytest.approx(1.0), pytest.approx(1.0)]
    assert confidences[2] == pytest.approx(0.5)  # one of eight words is known, and two would be enough
    assert confidences[3] < 0.4


def test_a_script_without_spaces_does_not_reduce_the_confidence(query: MakeQuery) -> None:
    found = LearnedStage(model())(query(last_user_text="请把这个翻译成英语"))
    assert found is not None
    assert found.confidence >= 0.5


@pytest.mark.parametrize(("words", "factor"), [(1, 1 / 8), (4, 0.5), (8, 1.0), (40, 1.0)])
def test_a_few_words_that_ask_for_structure_are_less_certain(query: MakeQuery, words: int, factor: float) -> None:
    """ "As JSON." says too little about the answer; other tasks are not affected."""
    text = " ".join(["translate"] * words)
    sure, other = (replace(model(), tasks=(task, Task.CHAT)) for task in (Task.STRUCTURED, Task.TRANSLATE))
    found, same = (LearnedStage(each)(query(last_user_text=text)) for each in (sure, other))
    assert found is not None
    assert same is not None
    assert found.confidence == pytest.approx(same.confidence * factor)
