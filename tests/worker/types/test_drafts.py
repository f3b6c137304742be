"""What a draft says about each position."""

from diffusion_worker.types.drafts import canvas_draft, draft_body, rejected_by, verified_draft
from diffusion_worker.types.step_batch import CanvasResult, TokenResult, VerifyResult

END = 9


def canvas(**fields: object) -> CanvasResult:
    given = {"sequence": 1, "ids": (1, 2, 3, 4), "logprobs": (0.0, -1.0, -2.0, -3.0), "mean_entropy": 0.5}
    return CanvasResult(**{**given, "accepted": 2, "stable_prefix": 1, "has_converged": False, **fields})  # type: ignore[arg-type]


def test_a_position_is_pinned_before_forced_before_accepted() -> None:
    marked = canvas(forced=(True, True, False, False), kept=(True, False, True, False))
    drafted = canvas_draft(marked, (1, 2, 3, 4), block=0, step=2, pinned=1)
    assert drafted.states == ("pinned", "forced", "accepted", "renoised")


def test_a_canvas_without_marks_is_accepted() -> None:
    assert canvas_draft(canvas(), (1, 2), block=0, step=1, pinned=0).states == ("accepted", "accepted")


def tokens(*ids: int) -> tuple[TokenResult, ...]:
    return tuple(TokenResult(sequence=1, id=each, logprob=-0.5, is_forced=each == 2) for each in ids)


def test_a_verification_tells_accepted_from_rejected_tokens() -> None:
    result = VerifyResult(sequence=1, tokens=tokens(1, 2, 3), cached=0, accepted=2)
    assert rejected_by(result, 6, (END,)) == 4
    drafted = verified_draft(result.tokens, (END,), block=0, step=2, rejected=4)
    assert (drafted.ids, drafted.states, drafted.rejected) == ((1, 2, 3), ("pinned", "forced", "pinned"), 4)


def test_what_follows_an_end_token_was_not_rejected() -> None:
    for accepted in (1, 2):
        result = VerifyResult(sequence=1, tokens=tokens(1, END), cached=0, accepted=accepted)
        assert rejected_by(result, 6, (END,)) == 0
    assert verified_draft(tokens(1, END), (END,), block=0, step=2).ids == (1,)


def test_the_event_has_text_probability_and_state_of_each_position() -> None:
    drafted = canvas_draft(canvas(), (1, 2), block=1, step=3, pinned=0)
    assert draft_body(drafted, "ab", ["a", "b"]) == {
        "draft": "ab",
        "block": 1,
        "step": 3,
        "entropy": 0.5,
        "positions": [
            {"token": "a", "confidence": 1.0, "state": "accepted"},
            {"token": "b", "confidence": 0.3679, "state": "accepted"},
        ],
        "rejected": 0,
    }
