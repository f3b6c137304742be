"""What is asked decides, not the text it is asked of.

The instructions are lines that the weights are fitted to, the texts beside them are from packages that no training text
comes from: this measures the influence of the texts, not the accuracy on new wordings, which the benchmark measures.
"""

import random
from collections import Counter

import pytest

from gateway.classifier.weights import open_classifier
from gateway.enums import Task
from gateway.types import Query
from training.classifier.compose import beside
from training.classifier.lines import Line, read_lines
from training.classifier.materials import HELD_OUT, Materials

CLASSIFY = open_classifier()
INSTRUCTIONS = [
    line
    for line in read_lines()
    if line.form == "instruction" and line.material in ("prose", "code") and line.lang == "en"
]


@pytest.fixture(name="materials", scope="module")
def materials_held_out() -> Materials:
    return Materials(HELD_OUT)


def task_of(text: str) -> Task:
    return CLASSIFY(Query(request_id="", model="auto", body=b"", received_s=0.0, last_user_text=text)).task


def is_right(line: Line, task: Task) -> bool:
    return task is line.task or task in line.also_ok


@pytest.mark.slow
def test_an_instruction_keeps_its_task_beside_other_texts(materials: Materials) -> None:
    rng = random.Random(1)
    kept = 0
    for line in rng.sample(INSTRUCTIONS, 200):
        found = Counter(task_of(beside(rng, line, materials.write(rng, line.material, "xx"))) for _ in range(10))
        kept += found.most_common(1)[0][1]
    assert kept / 2000 >= 0.95


def test_requests_of_one_text_follow_their_instructions(materials: Materials) -> None:
    rng = random.Random(2)
    right = 0
    for _ in range(200):
        kind = rng.choice(("prose", "code"))
        text = materials.write(rng, kind, "xx")
        lines = rng.sample([line for line in INSTRUCTIONS if line.material == kind], 10)
        right += sum(is_right(line, task_of(beside(rng, line, text))) for line in lines)
    assert right / 2000 >= 0.85
