"""The classifier's training: materials, composed requests, concepts, and a small training from end to end."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.classifier.features import features
from gateway.classifier.model import LearnedStage
from gateway.classifier.tokens import Vocabulary
from gateway.classifier.weights import read_model, write_model
from gateway.enums import Task
from gateway.types import Query
from training.classifier.compose import DENIALS, Request, beside, compose, pasted_texts
from training.classifier.concepts import concepts_by_word, read_concepts, vocabulary_of
from training.classifier.lines import MATERIALS, Line, kinds_of_writers, read_lines
from training.classifier.materials import HELD_OUT, TRAINING, Materials

LINES = list(read_lines())
FEW: Sequence[str] = ("textwrap", "shutil")


def line(asked: str, **given: object) -> Line:
    fields = {"writer": "w", "number": 1, "task": Task.EDIT, "also_ok": (), "lang": "en", "form": "instruction"}
    return Line(asked=asked, **{**fields, "material": "prose", **given})  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", sorted(MATERIALS - {"none"}))
def test_there_are_texts_of_every_kind_and_they_are_the_same_for_a_seed(kind: str) -> None:
    materials = Materials(FEW)
    one, same = (materials.write(random.Random(3), kind, "en") for _ in range(2))
    assert one == same
    assert len(one) > 20
    if kind == "json":
        json.loads(one)


def test_no_text_for_measuring_is_one_for_training() -> None:
    assert not set(TRAINING) & set(HELD_OUT)
    assert not set(Materials(FEW).paragraphs) & set(Materials(HELD_OUT[:2]).paragraphs)


def test_an_instruction_is_kept_whole_beside_its_text() -> None:
    rng = random.Random(1)
    for _ in range(200):
        text = beside(rng, line("make it shorter"), "The harbour was closed on Monday.")
        assert "make it shorter" in text
        assert "harbour" in text


def test_an_instruction_stands_where_its_writer_says() -> None:
    rng = random.Random(1)
    for place in ("before", "after"):
        texts = [beside(rng, line("shorter, please", place=place), "The harbour was closed.") for _ in range(50)]
        assert all((text.index("shorter") < text.index("harbour")) is (place == "before") for text in texts)


def test_a_follow_up_is_composed_of_its_last_turns() -> None:
    before = (("user", "write a toast"), ("assistant", "To Rosa!"))
    found = compose(random.Random(1), line("shorter", form="followup", before=before, material="none"), Materials(FEW))
    assert (found.earlier, found.answer) == ("write a toast", "To Rosa!")
    assert "shorter" in found.user


def test_a_denial_is_of_another_task_than_the_line() -> None:
    rng, materials = random.Random(2), Materials(FEW)
    asked = [compose(rng, line("shorten it", material="none"), materials).user for _ in range(400)]
    denied = [text for text in asked if text != "shorten it"]
    assert denied
    assert not [text for text in denied if any(text.startswith(each) for each in DENIALS[Task.EDIT])]


def test_bare_texts_of_writers_are_texts_to_put_beside_instructions() -> None:
    found = pasted_texts(LINES)
    assert {"de", "ja", "zh", "pl"} <= found.keys()
    assert all(len(text) > 80 for texts in found.values() for text in texts)


def test_no_concept_names_a_word_twice_or_is_empty() -> None:
    for name, words in read_concepts().items():
        assert len(words) > 5, name


def test_words_of_one_concept_share_its_number_in_all_languages() -> None:
    concepts = {"shorten": ("short~", "kürz~", "缩短"), "other": ("else",)}
    found = concepts_by_word(["shorter", "kürzer", "缩短", "long", "else"], concepts)
    assert found == {"shorter": [0], "kürzer": [0], "缩短": [0], "else": [1]}
    vocabulary = vocabulary_of(["shorter shorter"] * 3, concepts)
    numbers = dict(zip(vocabulary.words, vocabulary.numbers, strict=True))
    assert numbers["shorter"] == numbers["缩短"] == 1
    assert numbers["else"] == 2


@pytest.fixture(name="train")
def make_train(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The training, with few texts to put beside instructions and few requests of the bundled checkpoint."""
    pytest.importorskip("torch")
    from training.classifier import train as program

    monkeypatch.setattr(program, "TRAINING", FEW)
    monkeypatch.setattr(program, "BUNDLED_ROWS", 4)
    return program.train


@pytest.mark.slow
def test_folded_weights_score_as_the_fitted_model_does(tmp_path: Path, train: Any) -> None:
    """The shipped stage computes in numpy, by other code, from weights of 8 bits."""
    from training.classifier.fit import Table, fit, scores

    few, materials = LINES[::60], Materials(FEW)
    concepts = read_concepts()
    table = Table(vocabulary_of((each.asked for each in few), concepts), concepts)
    requests = [compose(random.Random(4), each, materials) for each in few]
    data = table.dataset(requests)
    model = fit(data, table.rows, seed=1, epochs=2)
    expected = scores(model, data).softmax(1).numpy()
    shipped = train(few, divisor=1.0, copies=1, epochs=1)
    assert shipped.vocabulary.words
    from gateway.classifier.model import TaskModel

    own = TaskModel(
        tasks=tuple(Task),
        vocabulary=table.vocabulary,
        weights=table.folded(model.table.weight.detach().numpy()),
        temperature=1.0,
    )
    write_model(own, tmp_path / "tasks.npz")
    stage = LearnedStage(read_model(tmp_path / "tasks.npz"))
    for request, row in zip(requests, expected, strict=True):
        query = Query(
            request_id="",
            model="auto",
            body=b"",
            received_s=0.0,
            last_user_text=request.user,
            system_text=request.system,
            earlier_text=request.earlier,
            answer_text=request.answer,
        )
        found = stage(query)
        if found is not None and sum(found.probabilities) > 0.999:
            assert np.allclose(found.probabilities, row, atol=0.05)


@pytest.mark.slow
def test_the_same_lines_give_the_same_weights(train: Any) -> None:
    one, same = (train(LINES[::100], divisor=1.0, copies=1, epochs=1) for _ in range(2))
    assert (one.weights == same.weights).all()
    assert one.vocabulary.words == same.vocabulary.words


def test_kinds_of_use_are_left_out_whole() -> None:
    pytest.importorskip("torch")
    from training.classifier.train import kind_folds

    folds, kinds = kind_folds(LINES), kinds_of_writers()
    assert len({(kinds[writer], fold) for writer, fold in folds.items()}) == len(set(folds.values()))
    assert len(set(folds.values())) > 3


def test_writers_of_one_language_are_left_out_in_turn() -> None:
    pytest.importorskip("torch")
    from training.classifier.train import FOLDS, writer_folds

    polish = [line("popraw", writer=name, lang="pl") for name in ("a", "b", "c", "d")]
    english = [line("fix it", writer=f"e{number}", lang="en") for number in range(FOLDS)]
    folds = writer_folds([*polish, *english])
    assert len({folds[each.writer] for each in polish}) == len(polish)
    assert set(folds.values()) == set(range(FOLDS))


def test_the_lanes_threshold_is_of_languages_that_several_write() -> None:
    torch = pytest.importorskip("torch")
    from training.classifier.evaluate import LEAST_LINES, LEAST_WRITERS, LeftOut, lane_threshold

    sure = [0.9 if task is Task.EDIT else 0.1 / 9 for task in Task]
    unsure = [0.6 if task is Task.EDIT else 0.4 / 9 for task in Task]

    def of(language: str, writers: int, task: Task, odds: list[float]) -> list[tuple[Request, list[float]]]:
        written = (line("x", writer=f"{language}{at}", task=task, lang=language) for at in range(writers))
        return [(Request(line=each, user="x"), odds) for each in written for _ in range(LEAST_LINES)]

    rows = of("en", LEAST_WRITERS, Task.EDIT, unsure) + of("pl", LEAST_WRITERS - 1, Task.CHAT, sure)
    requests, odds = [request for request, _ in rows], np.array([each for _, each in rows])
    found = LeftOut(requests=requests, found=torch.tensor(odds).log(), divisor=1.0, shipped=odds)
    assert lane_threshold(found) == pytest.approx(0.6 + 3 * 0.4 / 9)


def test_every_writer_has_a_kind_of_use() -> None:
    assert {each.writer for each in LINES} <= kinds_of_writers().keys()


def test_the_features_of_a_composed_request_are_those_of_its_texts() -> None:
    vocabulary = Vocabulary(["shorter"])
    request = compose(random.Random(1), line("shorter", material="none"), Materials(FEW))
    found = features(vocabulary, system=request.system, user=request.user)
    assert found.own_tokens >= 1
