"""The result of a verification, from the numbers that leave the device."""

import pytest

from diffusion_worker.denoise.verify import verify_result
from diffusion_worker.types.step_batch import Verify

END = 1
ITEM = Verify(sequence=1, slot=0, ids=(5,), at=9, seed=0, drafted=3, closes_with=8)


@pytest.mark.parametrize(
    ("draft", "chosen", "accepted", "tokens"),
    [
        ((6, 7, 8), (6, 7, 8, 9), 3, (6, 7, 8, 9)),  # and the token that follows it
        ((6, 7, 8), (6, 4, 8, 9), 1, (6, 4)),
        ((6, 7, 8), (3, 7, 8, 9), 0, (3,)),
        ((6, END, 8), (6, END, 8, 9), 2, (6, END)),  # the draft ended at the same place
        ((6, 7, 8), (6, END, 8, 9), 1, (6, END)),
        ((6, 7, 8), (6, 7, 8, END), 3, (6, 7, 8, END)),
    ],
)
def test_tokens_count_up_to_the_first_difference_or_an_end_token(
    draft: tuple[int, ...], chosen: tuple[int, ...], accepted: int, tokens: tuple[int, ...]
) -> None:
    row = [
        number for token, choice in zip((*ITEM.ids, *draft), chosen, strict=True) for number in (token, choice, -1, 0)
    ]
    result = verify_result(ITEM, row, (END,), width=4)
    assert (result.accepted, result.ids) == (accepted, tokens)
