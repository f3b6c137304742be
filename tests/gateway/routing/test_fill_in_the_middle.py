"""Fill-in-the-middle prompts of the usual families are split into the texts around the gap."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.enums import Task
from gateway.routing.classify import classify
from gateway.routing.fill_in_the_middle import FAMILIES, MARKERS, STOPS, gap_of, suffix_of

BEFORE, AFTER = "def add(a, b):\n    return ", "\n\nprint(add(1, 2))"
PROMPTS = {
    "qwen": f"<|fim_prefix|>{BEFORE}<|fim_suffix|>{AFTER}<|fim_middle|>",
    "starcoder": f"<fim_prefix>{BEFORE}<fim_suffix>{AFTER}<fim_middle>",
    "starcoder, suffix first": f"<fim_prefix><fim_suffix>{AFTER}<fim_middle>{BEFORE}",
    "santacoder": f"<fim-prefix>{BEFORE}<fim-suffix>{AFTER}<fim-middle>",
    "deepseek": f"<｜fim▁begin｜>{BEFORE}<｜fim▁hole｜>{AFTER}<｜fim▁end｜>",
    "deepseek, plain letters": f"<|fim_begin|>{BEFORE}<|fim_hole|>{AFTER}<|fim_end|>",
    "code llama": f"<PRE> {BEFORE} <SUF>{AFTER} <MID>",
    "code llama, suffix first": f"<PRE> <SUF>{AFTER} <MID> {BEFORE}",
    "glm": f"<|code_prefix|>{BEFORE}<|code_suffix|>{AFTER}<|code_middle|>",
    "glm, suffix first": f"<|code_suffix|>{AFTER}<|code_prefix|>{BEFORE}<|code_middle|><|assistant|>\n",
    "seed-coder": f"<[fim-suffix]>{AFTER}<[fim-prefix]>{BEFORE}<[fim-middle]>",
    "codestral": f"[SUFFIX]{AFTER}[PREFIX]{BEFORE}",
}
TEXTS = st.text(alphabet=st.sampled_from("ab <|>[]_-\n{}éé▁"), max_size=40)


@pytest.mark.parametrize("family", PROMPTS)
def test_the_prompt_of_each_family_is_split_at_its_markers(family: str) -> None:
    assert gap_of(PROMPTS[family]) == (BEFORE, AFTER)


def test_other_files_before_the_markers_belong_to_the_text_before_the_gap() -> None:
    repository = "<|repo_name|>calc\n<|file_sep|>a.py\nA = 1\n<|file_sep|>b.py\n"
    assert gap_of(repository + PROMPTS["qwen"]) == (repository + BEFORE, AFTER)


def test_a_completion_that_has_begun_continues_the_text_before_the_gap() -> None:
    assert gap_of(PROMPTS["qwen"] + "a +") == (BEFORE + "a +", AFTER)


@pytest.mark.parametrize(
    "prompt",
    ["", "def f():", "a < b", "<fim_prefix>a<fim_suffix>b", "<fim_suffix>a<fim_middle>", "see [SUFFIX] and [PREFIX]"],
)
def test_a_prompt_without_a_complete_set_of_markers_has_no_gap(prompt: str) -> None:
    assert gap_of(prompt) is None


@given(prefix=TEXTS, suffix=TEXTS, number=st.integers(0, len(FAMILIES) - 1))
def test_any_texts_come_back_as_they_were(prefix: str, suffix: str, number: int) -> None:
    family = FAMILIES[number]
    assume(not any(marker in prefix + suffix for marker in STOPS))
    space = " " if family.is_spaced else ""
    prompt = f"{family.prefix}{space}{prefix}{space}{family.suffix}{suffix}{space}{family.middle}"
    assume(all(prompt.count(marker) == 1 for marker in (family.prefix, family.suffix, family.middle)))
    assert gap_of(prompt) == (prefix, suffix)


def test_a_placeholder_for_no_suffix_is_none() -> None:
    assert [suffix_of(given) for given in (None, "", "<|endoftext|>", "\n")] == [None, None, None, "\n"]


@pytest.mark.parametrize("family", [name for name in PROMPTS if name != "codestral"])
def test_markers_in_a_chat_message_are_an_autocomplete(query: object, family: str) -> None:
    found = classify(query(last_user_text=PROMPTS[family]))  # type: ignore[operator]
    assert (found.task, found.evidence) == (Task.AUTOCOMPLETE, "fim_markers")


def test_every_marker_is_found_and_markup_is_none() -> None:
    markers = {marker for family in FAMILIES for marker in (family.prefix, family.suffix, family.middle)}
    assert {MARKERS.search(f"<a>{marker}</a>")[0] for marker in markers} == markers  # type: ignore[index]
    assert not any(MARKERS.search(marker[:-1]) or MARKERS.search(marker[1:]) for marker in markers)
    assert MARKERS.search("<p><f><S><|x|> a < b <[0]") is None
