"""The expected calibration error."""

import random

import pytest

from training.calibration import calibration_error


def test_the_calibration_error_of_a_calibrated_guesser_is_small() -> None:
    rng = random.Random(1)
    confidences = [rng.uniform(0.3, 1.0) for _ in range(20_000)]
    right = [rng.random() < confidence for confidence in confidences]
    assert calibration_error(confidences, right, bins=15) < 0.02
    sure = [min(1.0, confidence + 0.2) for confidence in confidences]
    assert calibration_error(sure, right, bins=15) == pytest.approx(0.16, abs=0.04)


def test_bins_have_equal_mass() -> None:
    """Errors of opposite sign in one bin cancel, those in different bins do not."""
    assert calibration_error([0.5, 0.5], [True, False], bins=1) == 0.0
    assert calibration_error([0.5, 0.5], [True, False], bins=2) == 0.5


def test_without_predictions_the_error_is_zero() -> None:
    assert calibration_error([], [], bins=10) == 0.0
