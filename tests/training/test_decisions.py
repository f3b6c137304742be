"""Questions about orders: their answers follow from the text, and canvases are those of the worker."""

import json
import random

from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.constraints.inference.template import FREE
from diffusion_worker.models.interface import DiffusionModel
from diffusion_worker.models.loader import LoadOptions, load
from training.tasks.decisions import QUESTIONS, canvases_of, decision
from training.tasks.orders import order
from training.tasks.sample import SampleSpec
from training.vocabulary import decode_ids
from twolane.process.decisions.questions import QuestionKind

SPEC = SampleSpec(split="test", invented=0.5)


@given(st.integers(0, 2**32))
def test_the_right_options_follow_from_the_order(seed: int) -> None:
    """Of every topic whose answer the object of the extraction task states directly."""
    sample = decision(random.Random(seed), SPEC)
    said = json.loads(order(random.Random(seed), SPEC).answer)
    right = {each.topic: each.question.options[each.right].value for each in sample.asked}
    assert len(sample.asked) == QUESTIONS
    assert right.get("which day") in (None, said["day"] or "none")
    assert right.get("which item") in (None, said["item"].split()[-1])
    assert right.get("has a day") in (None, said["day"] is not None)
    assert right.get("how many") in (None, "few" if said["qty"] <= 10 else "some" if said["qty"] <= 20 else "many")


def test_all_types_and_both_outcomes_occur() -> None:
    asked = [each for seed in range(200) for each in decision(random.Random(seed), SPEC).asked]
    assert {each.question.kind for each in asked} == set(QuestionKind)
    for topic in {each.topic for each in asked}:
        rights = [each.right for each in asked if each.topic == topic]
        assert max(map(rights.count, set(rights))) < 0.9 * len(rights), topic


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
    assert lines == [each.question.labels()[each.right] for each in sample.asked]
