"""A constraint loses no correct answer of the shipped checkpoint, beyond what chance explains."""

import pytest

from benchmarks.constraints_answers import TASKS, measure
from benchmarks.constraints_masks import naive_masks
from benchmarks.vocabularies import SHIPPED, shipped
from diffusion_worker.constraints.compile import compile_constraint
from diffusion_worker.constraints.spec import Constraint
from diffusion_worker.constraints.tokens.compilation import compile_tokens
from diffusion_worker.models.loader import LoadOptions, load
from diffusion_worker.types.requests import DecodingMode
from training.mcnemar import compared


@pytest.mark.slow
@pytest.mark.parametrize("task", ["invented", "sudoku"])
def test_a_constraint_costs_no_right_answer_beyond_chance(task: str) -> None:
    """Invented words, for which the model is least certain."""
    model = load(str(SHIPPED), LoadOptions(threads=1))
    measured = measure(model, TASKS[task], count=40, seed=5, is_naive=task == "sudoku")
    methods = {(method.decoding_mode, method.name): method for method in measured}
    assert len(methods) == 2 * len(DecodingMode) + (task == "sudoku")
    for decoding_mode in DecodingMode:
        free, kept = methods[decoding_mode, "free"], methods[decoding_mode, "constrained"]
        gained, lost, p = compared(free.right, kept.right)
        assert lost <= gained or p >= 0.05
        assert sum(free.right) >= 33
        assert kept.passes <= free.passes + 0.5


def test_the_naive_mask_lets_tokens_clash() -> None:
    """Of `ab` and `cd` every position has two tokens, and the mask cannot see which belong together."""
    automaton = compile_tokens(
        compile_constraint(Constraint(kind="choice", value=["ab", "cd"])).automaton, shipped().read()
    )
    assert automaton is not None
    masks = naive_masks(automaton, 4)
    spelled = [sorted(shipped().text([token]) for token in mask.nonzero()[0].tolist()) for mask in masks]
    assert spelled[:2] == [[b"a", b"c"], [b"b", b"d"]]
    assert masks[2].sum() == 1
    assert masks[3, automaton.padding_id]
