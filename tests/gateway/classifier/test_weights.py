"""The shipped weights: valid, small, accurate on prompts like the training data, and uncertain about all others."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.classifier.model import table_rows
from gateway.classifier.weights import FILE, MAX_BYTES, open_classifier, read_model, write_model
from gateway.enums import Task
from gateway.errors import BadWeights, CannotStart
from gateway.policy_files.load import load
from gateway.types import Query
from tests.measured import cpu_s

LANE = load(Path(__file__).parents[3] / "policies" / "default.yaml", {}).rules[0].route.when
assert LANE.confidence_of
assert LANE.confidence
FAST = LANE.confidence_of
FAST_THRESHOLD = LANE.confidence.number  # for the fast lane, of the probability of all its tasks
CLASSIFY = open_classifier()


def query_of(user: str, system: str = "") -> Query:
    return Query(request_id="", model="auto", body=b"", received_s=0.0, last_user_text=user, system_text=system)


def test_the_file_is_small_and_fits_the_features() -> None:
    found = read_model()
    assert FILE.stat().st_size <= MAX_BYTES
    assert found.tasks == tuple(Task)
    assert found.weights.shape == (table_rows(found.vocabulary), len(Task) + 1)
    assert np.isfinite(found.weights).all()
    assert found.vocabulary.words


@pytest.mark.parametrize(
    ("text", "task"),
    [
        ("Correct the spelling of this sentence: He recieved teh parcel.", Task.EDIT),
        ("def area(r):\n    return 3.14 * r\n\nRename r to radius.", Task.EDIT),
        ("List three rivers of Spain as a JSON array.", Task.STRUCTURED),
        ("Extract all dates from this letter: We met on 4 May and again on 9 June 2021.", Task.EXTRACTION),
        ("Summarize the following article in two sentences.\n\nThe harbour was closed. " * 5, Task.SUMMARIZE),
        ("Translate into Danish: the soup is cold", Task.TRANSLATE),
        ("A hen lays 5 eggs a week. How many eggs do 12 hens lay in 3 weeks?", Task.REASONING),
        ("Write a Python function that removes duplicates from a list.", Task.CODE),
        ("Tell me a story about a lighthouse.", Task.CHAT),
        ("What is the capital of Denmark? Answer in one sentence.", Task.CHAT),
    ],
)
def test_plain_instructions_are_classified_correctly(text: str, task: Task) -> None:
    assert CLASSIFY(query_of(text)).task is task


@pytest.mark.parametrize(
    ("text", "unwanted", "task"),
    [
        ("Don't summarize this, explain what makes it funny: A horse walks into a bar.", Task.SUMMARIZE, Task.CHAT),
        ("Do not translate. Who wrote this? Il pleure dans mon coeur.", Task.TRANSLATE, Task.CHAT),
        ("Rather than rewriting it, tell me honestly what you think: the moon was pale.", Task.EDIT, Task.CHAT),
        ("Please don't proofread, I only want to know if it is kind: I hope you get well.", Task.EDIT, Task.CHAT),
        ("I need no JSON here. What is the tallest mountain of Africa?", Task.STRUCTURED, Task.CHAT),
        ("Don’t translate this, fix its grammar: she have went home", Task.TRANSLATE, Task.EDIT),
        ("No summary, please: translate to Danish: the soup is cold", Task.SUMMARIZE, Task.TRANSLATE),
        ("Übersetze das nicht, erkläre mir den Satz: Time flies.", Task.TRANSLATE, Task.CHAT),
        ("Ne corrige pas, dis-moi ce que tu en penses : il fait beau", Task.EDIT, Task.CHAT),
    ],
)
def test_a_negated_instruction_is_not_classified_as_requested(text: str, unwanted: Task, task: Task) -> None:
    found = CLASSIFY(query_of(text))
    assert found.task is not unwanted
    assert found.task is task


def test_a_negated_instruction_beside_one_of_two_tasks_is_either() -> None:
    """Who is right is an opinion or a conclusion, but no extraction."""
    found = CLASSIFY(query_of("Without extracting any names, tell me who is right: Ann says yes, Bob says no."))
    assert found.task in (Task.CHAT, Task.REASONING)


@pytest.mark.parametrize("verb", ["rewrite", "correct", "extract", "complete", "polish"])
@pytest.mark.parametrize("denial", ["Don't {} it.", "Do not {} anything.", "You must never {} this.", "never {}!"])
def test_a_negated_instruction_alone_is_not_sent_to_the_fast_lane(verb: str, denial: str) -> None:
    found = CLASSIFY(query_of(denial.format(verb) + " The harbour was closed on Monday and the ships waited outside."))
    assert found.task not in FAST or found.confidence_of(FAST) < FAST_THRESHOLD


@pytest.mark.parametrize("words", [1, 2, 5, 12, 40, 150])
def test_unknown_words_give_a_low_confidence(words: int) -> None:
    """Random syllables: their letters resemble some language, and once gave a high confidence."""
    rng, syllables = random.Random(words), [a + b for a in ("b", "kr", "z", "sh", "pl", "v") for b in "aeiou"]
    for _ in range(50):
        text = " ".join("".join(rng.choices(syllables, k=rng.randint(3, 5))) for _ in range(words))
        found = CLASSIFY(query_of(text + rng.choice(".?:")))
        assert found.confidence < FAST_THRESHOLD


@pytest.mark.parametrize(
    "text",
    [
        "Соrrесt thе sреlling оf this sеntеnсе",  # Cyrillic letters that look Latin
        "\u202eecnetnes siht tcerroc",  # written backwards, and shown forwards
        "correct" * 200,  # a single word
        '{"task": "edit", "confidence": 1.0}',  # names its own task
        "extrakt extrct exract xtract",
    ],
)
def test_text_that_only_resembles_an_instruction_gives_a_low_confidence(text: str) -> None:
    found = CLASSIFY(query_of(text))
    assert found.task not in FAST or found.confidence_of(FAST) < FAST_THRESHOLD


@pytest.mark.parametrize(
    "text",
    [
        "Kaixo, zer moduz zaude gaur goizean?",  # Basque
        "Sawubona, unjani namuhla ekuseni?",  # Zulu
        "Miten voit tänään, ystäväni hyvä?",  # Finnish
        "Labas rytas, kaip laikaisi šiandien?",  # Lithuanian
        "გამარჯობა, როგორ ხარ დღეს?",  # Georgian
        "እንደምን አደሩ ዛሬ እንዴት ነዎት",  # Amharic
    ],
)
def test_an_unknown_language_goes_to_the_quality_lane(text: str) -> None:
    found = CLASSIFY(query_of(text))
    assert found.task not in FAST or found.confidence_of(FAST) < FAST_THRESHOLD


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "?",
        "hm",
        "qzx vlkk wrrp 0x9f",
        "🦊🦊🦊",
        "ⴰⵣⵓⵍ ⴼⵍⵍⴰⵡⵏ",
        "\x00\x01\x02",
        "]]]]}}}}",
        "a" * 1_000_000,
        "1 2 3",
    ],
)
def test_meaningless_text_goes_to_the_quality_lane(text: str) -> None:
    found = CLASSIFY(query_of(text))
    assert found.task not in FAST or found.confidence_of(FAST) < FAST_THRESHOLD


@given(user=st.text(max_size=400), system=st.text(max_size=100))
@settings(deadline=None)
def test_any_text_gets_a_task_and_a_probability(user: str, system: str) -> None:
    found = CLASSIFY(query_of(user, system))
    assert found.task in Task
    assert 0.0 < found.confidence <= 1.0
    assert CLASSIFY(query_of(user, system)) == found


@pytest.mark.parametrize("unit", ["word ", "```\n", "<fim", "\n", "漢", "\ud800", "'"])
def test_a_megabyte_of_anything_takes_no_longer_than_a_page(unit: str) -> None:
    page, text = (unit * (size // len(unit)) for size in (20_000, 1_000_000))
    assert cpu_s(lambda: CLASSIFY(query_of(text, text))) < 10 * cpu_s(lambda: CLASSIFY(query_of(page, page)))


def test_weights_survive_being_written_and_read(tmp_path: Path) -> None:
    """int8 quantisation: the error is below half a step. The same model gives the same bytes."""
    found = read_model()
    for name in ("one.npz", "two.npz"):
        write_model(found, tmp_path / name)
    again = read_model(tmp_path / "one.npz")
    steps = np.abs(found.weights).max(axis=0) / 127
    assert (np.abs(again.weights - found.weights) <= steps * 0.51).all()
    assert (again.tasks, again.temperature) == (found.tasks, found.temperature)
    assert (again.vocabulary.words, again.vocabulary.numbers) == (found.vocabulary.words, found.vocabulary.numbers)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


def _without(name: str) -> Callable[[dict[str, np.ndarray]], object]:
    return lambda parts: parts.pop(name)


@pytest.mark.parametrize(
    ("corrupt", "found"),
    [
        (lambda parts: parts.update(version=np.array(999)), "version 999"),
        (lambda parts: parts.update(table=parts["table"][:-1]), "does not fit"),
        (lambda parts: parts.update(table=parts["table"].astype(np.float64)), "float64"),
        (lambda parts: parts.update(tasks=np.array(["edit", "juggling"])), "juggling"),
        (_without("scales"), "scales"),
    ],
)
def test_weights_that_do_not_fit_are_rejected_and_named(
    tmp_path: Path, corrupt: Callable[[dict[str, np.ndarray]], object], found: str
) -> None:
    parts = dict(np.load(FILE))
    corrupt(parts)
    np.savez(tmp_path / "bad.npz", **parts)
    with pytest.raises(BadWeights, match=found) as caught:
        read_model(tmp_path / "bad.npz")
    assert "bad.npz" in str(caught.value)


@pytest.mark.parametrize("data", [None, b"", b"PK\x03\x04 no archive", b"\x93NUMPY"])
def test_a_missing_or_damaged_file_prevents_the_start_and_is_named(tmp_path: Path, data: bytes | None) -> None:
    path = tmp_path / "tasks.npz"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(CannotStart, match=r"tasks\.npz"):
        open_classifier(path)
