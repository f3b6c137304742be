"""Questions about orders: their answers follow from the text, and canvases are those of the worker."""

import json
import random
import re
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.constraints.inference.template import FREE
from diffusion_worker.models.interface import DiffusionModel
from diffusion_worker.models.loader import LoadOptions, load
from training.tasks.decisions import QUESTIONS, Asked, canvases_of, decision, practice_set, question_set
from training.tasks.orders import order
from training.tasks.sample import SampleSpec
from training.vocabulary import decode_ids
from twolane.process.decisions.questions import QuestionKind

SPEC = SampleSpec(split="test", invented=0.5)


@given(st.integers(0, 2**32))
def test_the_right_options_follow_from_the_order(seed: int) -> None:
    """Of every question whose answer the object of the extraction task states directly."""
    asked = question_set(random.Random(seed))
    sample = decision(random.Random(seed), SPEC, asked)
    said = json.loads(order(random.Random(seed), SPEC).answer)
    right = {
        question.text: question.options[index].value
        for question, index in zip(sample.questions, sample.right, strict=True)
    }
    assert len(right) == QUESTIONS
    assert right.get("Which day?") in (None, said["day"] or "none")
    assert right.get("Is a day named?") in (None, said["day"] is not None)
    assert right.get("How many? few: to 10, some: to 20") in (
        None,
        "few" if said["qty"] <= 10 else "some" if said["qty"] <= 20 else "many",
    )
    for text, value in right.items():
        if found := re.match(r"Is the quantity above (\d+)", text):
            assert value == ("yes" if said["qty"] > int(found[1]) else "no")
        if found := re.match(r"Is the day (.*)\?", text):
            assert value == ("yes" if said["day"] in re.split(", | or ", found[1]) else "no")


def test_all_types_and_several_answers_occur() -> None:
    """Most texts do not get the same answer to a question, whichever it is."""
    asked = question_set(random.Random(3))
    samples = [decision(random.Random(seed), SPEC, asked) for seed in range(200)]
    assert {question.kind for question in samples[0].questions} == set(QuestionKind)
    for answers in zip(*(sample.right for sample in samples), strict=True):
        assert max(map(answers.count, set(answers))) < 0.9 * len(answers)


def test_predicates_are_practised_more_often_than_asked() -> None:
    def share(draw: Callable[[random.Random, int], tuple[Asked, ...]]) -> float:
        kinds = [each.question.kind for seed in range(200) for each in draw(random.Random(seed), QUESTIONS)]
        return kinds.count(QuestionKind.PREDICATE) / len(kinds)

    assert share(practice_set) > share(question_set) + 0.15


def model() -> DiffusionModel:
    return load("checkpoints/twolane-tiny", LoadOptions(threads=1))


def test_canvases_hold_the_right_labels_in_the_holes_of_the_template() -> None:
    info = model().info
    sample = decision(random.Random(4), SPEC)
    canvases = canvases_of(sample, info)
    assert sum(len(canvas.questions) for canvas, _ in canvases) == QUESTIONS
    lines = []
    for canvas, ids in canvases:
        assert len(ids) == info.denoising.canvas_length
        assert all(given in (FREE, token) for given, token in zip(canvas.template.ids, ids, strict=True))
        text = decode_ids([token for token in ids if token not in (info.pad_id, *info.end_ids)])
        lines += [line.split(": ")[1] for line in text.splitlines()]
    right = zip(sample.questions, sample.right, strict=True)
    assert lines == [question.labels()[index] for question, index in right]
