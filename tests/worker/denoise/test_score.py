"""Scores are those of the annealed logits; the log-probability alone is that of the raw ones."""

import math

import torch

from diffusion_worker.denoise.score import annealed_temperature, sampling_probabilities, score, tokens_of

LOGITS = torch.tensor([[[3.0, 1.0, 0.0], [0.0, 0.0, 0.0]]])


def test_the_temperature_falls_from_t_max_to_almost_t_min() -> None:
    steps = torch.tensor([48, 48, 48])
    found = annealed_temperature(torch.full((3,), 0.4), torch.full((3,), 0.4), torch.tensor([48, 24, 1]), steps)
    torch.testing.assert_close(found, torch.tensor([0.8, 0.6, 0.4 + 0.4 / 48]))


def test_the_entropy_is_in_nats_and_of_the_annealed_logits() -> None:
    found = score(LOGITS, torch.tensor([0.5]))
    expected = torch.distributions.Categorical(logits=LOGITS / 0.5).entropy()
    torch.testing.assert_close(found.entropy, expected)
    assert math.isclose(found.entropy[0, 1].item(), math.log(3), rel_tol=1e-6)


def test_the_log_probability_of_the_most_likely_is_at_temperature_one() -> None:
    found = score(LOGITS, torch.tensor([0.4]))
    torch.testing.assert_close(found.logprob, LOGITS.log_softmax(-1).max(-1).values)
    assert found.surest[0, 0].item() == 0


def test_a_request_temperature_changes_what_is_sampled_and_nothing_else() -> None:
    scores = score(LOGITS.repeat(3, 1, 1), torch.tensor([0.8] * 3))
    flat = sampling_probabilities(scores, (None, 1.0, 2.0))
    assert torch.equal(flat[:2], scores.probabilities[:2])
    torch.testing.assert_close(flat[2], (LOGITS[0] / 0.8 / 2.0).softmax(-1))


def test_temperature_zero_takes_the_most_likely_token_in_its_row_only() -> None:
    scores = score(LOGITS.repeat(2, 1, 1), torch.tensor([0.8] * 2))
    sampled = torch.full((2, 2), 2)
    assert tokens_of(scores, sampled, (0.0, None)).tolist() == [scores.surest[0].tolist(), [2, 2]]


def test_logits_that_are_not_finite_show_in_the_entropy() -> None:
    for poison in (math.nan, math.inf):
        logits = LOGITS.clone()
        logits[0, 1, 2] = poison
        assert not score(logits, torch.tensor([0.8])).entropy.mean(-1).isfinite().any()
