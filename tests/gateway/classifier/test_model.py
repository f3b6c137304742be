"""The trained stage, with a model of a few words that is easy to check by hand."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from gateway.classifier.features import features
from gateway.classifier.model import LearnedStage, TaskModel, table_rows
from gateway.classifier.tokens import FIRST_WORD, Vocabulary
from gateway.enums import Task
from gateway.routing.classify import STAGES, classify
from gateway.types import Query

MakeQuery = Callable[..., Query]
TASKS = tuple(Task)
TRANSLATE, STRUCTURED = TASKS.index(Task.TRANSLATE), TASKS.index(Task.STRUCTURED)
WORDS = ("translate", "please", "topic")


def model(*, strength: float = 50.0, column: int = TRANSLATE, asks: float = 0.0) -> TaskModel:
    """A model of one word, which indicates a task; a unit that contains "please" is what is asked."""
    vocabulary = Vocabulary(WORDS)
    weights = np.zeros((table_rows(vocabulary), len(TASKS) + 1), dtype=np.float32)
    weights[FIRST_WORD, column] = strength
    weights[FIRST_WORD + 1, -1] = asks
    return TaskModel(tasks=TASKS, vocabulary=vocabulary, weights=weights, temperature=1.0)


def test_the_most_probable_task_is_returned_with_its_strongest_words(query: MakeQuery) -> None:
    found = LearnedStage(model())(query(last_user_text="Please TRANSLATE my secret"))
    assert found is not None
    assert (found.task, found.evidence) == (Task.TRANSLATE, "words: translate")
    assert found.confidence > 0.9


def test_probabilities_are_those_of_a_softmax_over_the_weighted_units(query: MakeQuery) -> None:
    found = LearnedStage(model(strength=2.0))(query(last_user_text="translate please"))
    seen = features(model().vocabulary, system="", user="translate please")
    assert found is not None
    # Three units: those of the empty system prompt and turn before have a break each, and count as much as the third.
    score = 2.0 / math.sqrt(seen.rows.shape[1] - 2) / seen.firsts.size
    expected = math.exp(score) / (math.exp(score) + len(TASKS) - 1)
    assert found.confidence == pytest.approx(expected, rel=1e-5)
    # "structured" is less certain in a text of two words.
    assert sum(found.probabilities) == pytest.approx(1.0 - (1.0 - expected) / (len(TASKS) - 1) * 6 / 8)
    assert found.probabilities[TRANSLATE] == pytest.approx(found.confidence)


def test_the_unit_that_asks_outweighs_the_others(query: MakeQuery) -> None:
    """The topic of a pasted text must not decide."""
    text = "please translate\ntopic topic"
    evenly, weighed = (LearnedStage(model(strength=3.0, asks=asks))(query(last_user_text=text)) for asks in (0.0, 9.0))
    assert evenly is not None
    assert weighed is not None
    assert weighed.confidence > evenly.confidence + 0.1
    other = LearnedStage(model(strength=3.0, asks=9.0))(query(last_user_text="please topic\ntranslate topic"))
    assert other is not None
    assert other.confidence < 0.2


def test_the_evidence_names_only_words_of_the_models_vocabulary(query: MakeQuery) -> None:
    """The evidence is logged, prompts are not."""
    found = LearnedStage(model(strength=0.0))(query(last_user_text="my secret"))
    assert found is not None
    assert found.evidence == "words"


@pytest.mark.parametrize("text", ["", "  ", "\n\t\n", "\u3000"])
def test_a_request_without_text_is_not_classified(query: MakeQuery, text: str) -> None:
    assert LearnedStage(model())(query(last_user_text=text, system_text="translate")) is None
    assert classify(query(last_user_text=text), (*STAGES, LearnedStage(model()))).evidence == "none"


def test_evidence_from_structure_precedes_the_words(query: MakeQuery) -> None:
    found = classify(query(last_user_text="translate", has_tools=True), (*STAGES, LearnedStage(model())))
    assert (found.task, found.evidence) == (Task.AGENT, "tools")


def test_mostly_unknown_words_reduce_the_probabilities(query: MakeQuery) -> None:
    stage = LearnedStage(model(strength=5000.0))
    found = [stage(query(last_user_text="translate" + " qzx" * unknown)) for unknown in (0, 2, 5, 19)]
    confidences = [each.confidence for each in found if each]
    assert confidences[:2] == [pytest.approx(1.0), pytest.approx(1.0)]
    assert confidences[2] == pytest.approx(math.sqrt(1 / 6 / 0.3), rel=1e-3)
    assert confidences[3] == pytest.approx(math.sqrt(1 / 20 / 0.3), rel=1e-3)


@pytest.mark.parametrize(("words", "factor"), [(1, 1 / 8), (4, 0.5), (8, 1.0), (40, 1.0)])
def test_a_few_words_that_ask_for_structure_are_less_certain(query: MakeQuery, words: int, factor: float) -> None:
    """ "As JSON." says too little about the answer; other tasks are not affected."""
    text = " ".join(["translate"] * words)
    sure = LearnedStage(model(strength=5000.0, column=STRUCTURED))(query(last_user_text=text))
    same = LearnedStage(model(strength=5000.0))(query(last_user_text=text))
    assert sure is not None
    assert same is not None
    assert sure.probabilities[STRUCTURED] == pytest.approx(same.confidence * factor)
