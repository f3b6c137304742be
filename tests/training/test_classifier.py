"""Generation of the classifier's prompts, and its training from end to end."""

import json
import random
from pathlib import Path

import pytest

from gateway.classifier.weights import read_model, write_model
from gateway.enums import Task
from training.classifier.contexts import fillers
from training.classifier.examples import FIT, HELD_OUT, PROMPTS, PromptGenerator, examples, rephrased, task_words
from training.classifier.grammar import Grammar, read_rules


def test_a_line_stands_for_all_its_choices() -> None:
    grammar = Grammar({"thing": ["pen", "cup"]}, {"n": lambda rng: "7"})
    rng = random.Random(0)
    found = {grammar.expand(rng, "«take|drop ‹n›|» the ‹thing›") for _ in range(200)}
    assert found == {f"{verb} the {thing}" for verb in ("take", "drop 7", "") for thing in ("pen", "cup")}


def test_choices_nest_and_lines_break() -> None:
    grammar = Grammar({}, {})
    found = {grammar.expand(random.Random(seed), "«a «b|c»|d»!") for seed in range(50)}
    assert found == {"a b!", "a c!", "d!"}


def test_rules_are_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("= first rule\none\\ntwo\n\n= second\n‹first rule›\n")
    assert read_rules(tmp_path / "one.txt") == {"first rule": ["one\ntwo"], "second": ["‹first rule›"]}


@pytest.mark.slow
def test_every_rule_that_is_referred_to_exists_and_every_line_can_be_written() -> None:
    context: list[Grammar] = []
    rules = {name: lines for path in sorted(PROMPTS.glob("*.txt")) for name, lines in read_rules(path).items()}
    grammar = Grammar(rules, fillers(context))
    context.append(grammar)
    rng = random.Random(1)
    for lines in rules.values():
        for line in lines:
            text = grammar.expand(rng, line)
            assert not set("«»‹›") & set(text), line


def test_no_two_files_give_a_rule_the_same_name() -> None:
    """The later one would silently replace the other."""
    names = [name for path in PROMPTS.glob("*.txt") for name in read_rules(path)]
    assert len(names) == len(set(names))


def test_examples_are_the_same_for_the_same_seed_and_take_the_tasks_in_turn() -> None:
    first, again, other = examples(5, count=40), examples(5, count=40), examples(6, count=40)
    assert first == again != other
    assert [each.task for each in first[:10]] == list(Task)


def test_lines_that_are_held_out_are_never_learned_from() -> None:
    learned, held_out = PromptGenerator(FIT), PromptGenerator(HELD_OUT)
    for task in Task:
        assert not learned.lines(task) & held_out.lines(task)
        assert held_out.lines(task)


def test_a_wish_said_otherwise_keeps_most_of_its_letters() -> None:
    rng, wish = random.Random(3), "Rewrite the sentence below."
    for _ in range(200):
        assert len(set("rewitsnc") & set(rephrased(rng, wish).lower())) >= 7


def test_words_that_may_be_named_as_evidence_are_no_names() -> None:
    assert {"translate", "summarize"} <= task_words()
    assert not {"priya", "kofi", "nairobi"} & task_words()


@pytest.mark.slow
def test_a_short_training_gives_weights_that_tell_tasks_apart(tmp_path: Path) -> None:
    from training.classifier.__main__ import train

    model, figures = train(count=1500, epochs=2)
    write_model(model, tmp_path / "tasks.npz")
    assert read_model(tmp_path / "tasks.npz").tasks == tuple(Task)
    assert figures["accuracy"] > 0.5  # by chance it would be 0.1
    assert json.dumps(figures)
    again, _ = train(count=1500, epochs=2)
    assert (again.weights == model.weights).all()
