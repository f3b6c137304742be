"""The C module computes what the Python code does; it is optional, so these tests need a build of it."""

import random

import pytest

from gateway.classifier.compiled import IS_BUILT
from gateway.classifier.model import LearnedStage, parts_of
from gateway.classifier.weights import read_model
from gateway.types import Query
from training.classifier.compose import compose
from training.classifier.lines import read_lines
from training.classifier.materials import HELD_OUT, Materials

pytestmark = pytest.mark.skipif(not IS_BUILT, reason="gateway.classifier._native is not built")
# Letters, signs and breaks of every kind that the tokenizer and the flags tell apart.
ALPHABETS = (
    "abc def '_ 09.!?;:\n\n \t`\"“”«»{}()[]<>|@_=+-,…→",
    "漢字翻译かなカナ한국어。！？；：",
    "éèñßÜİıſẞǅΣσς ’ж ü",
    "ابتثل لا ،؛؟۔ \u0651\u064b٣ हिन्दी को मत नहीं है।॥ «ºª²",
    "\x00\x01\u0300\u0660²½\ud800\u2028\x1c🦊",
    " \n`",
    "don't not nicht than rather only for to ",
)


def query_of(user: str, system: str = "", earlier: str = "", answer: str = "") -> Query:
    texts = {"last_user_text": user, "system_text": system, "earlier_text": earlier, "answer_text": answer}
    return Query(request_id="", model="auto", body=b"", received_s=0.0, **texts)  # type: ignore[arg-type]


def junk(rng: random.Random) -> str:
    alphabet = "".join(rng.sample(ALPHABETS, rng.randint(1, 4)))
    return "".join(rng.choices(alphabet, k=rng.choice((0, 3, 20, 200, 900, 5000))))


@pytest.fixture(name="stages", scope="module")
def both_stages() -> tuple[LearnedStage, LearnedStage]:
    model = read_model()
    return LearnedStage(model, is_compiled=False), LearnedStage(model, is_compiled=True)


def assert_same(stages: tuple[LearnedStage, LearnedStage], query: Query) -> None:
    one, other = (stage(query) for stage in stages)
    if one is None or other is None:
        assert one is other
        return
    assert (one.task, one.evidence) == (other.task, other.evidence)
    assert one.probabilities == pytest.approx(other.probabilities, abs=1e-9)


@pytest.mark.slow
def test_requests_of_all_writers_get_the_same_result(stages: tuple[LearnedStage, LearnedStage]) -> None:
    rng, beside = random.Random(5), Materials(HELD_OUT[:3])
    for line in rng.sample(list(read_lines()), 1500):
        request = compose(rng, line, beside)
        assert_same(stages, query_of(request.user, request.system, request.earlier, request.answer))


@pytest.mark.slow
def test_texts_of_any_characters_get_the_same_result(stages: tuple[LearnedStage, LearnedStage]) -> None:
    rng = random.Random(6)
    for _ in range(1000):
        assert_same(stages, query_of(*(junk(rng) for _ in range(rng.randint(1, 4)))))


def test_parts_of_another_shape_are_refused() -> None:
    from gateway.classifier.compiled import scorer

    parts = parts_of(read_model())
    with pytest.raises(ValueError, match="expected"):
        scorer(type(parts)(**{name: getattr(parts, name) for name in parts.__slots__} | {"table": parts.table[:-1]}))


@pytest.mark.parametrize("given", [(), ("a",), ("a", "b", "c", 4), (b"a", "b", "c", "d")])
def test_arguments_that_are_no_texts_are_refused(given: tuple[object, ...]) -> None:
    from gateway.classifier.compiled import scorer

    with pytest.raises(TypeError):
        scorer(parts_of(read_model()))(*given)  # type: ignore[arg-type]
