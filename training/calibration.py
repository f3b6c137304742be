"""The expected calibration error (Naeini et al., AAAI 2015), in bins of equal mass."""

from collections.abc import Sequence


def calibration_error(confidences: Sequence[float], right: Sequence[bool], bins: int) -> float:
    """The mean gap between confidence and accuracy over `bins` bins; 0 without predictions."""
    pairs = sorted(zip(confidences, right, strict=True), key=lambda pair: pair[0])
    parts = [pairs[len(pairs) * n // bins : len(pairs) * (n + 1) // bins] for n in range(bins)]
    return sum(abs(sum(confidence - ok for confidence, ok in part)) for part in parts) / max(1, len(pairs))
