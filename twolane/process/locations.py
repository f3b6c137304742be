"""Locations of targets: labels of a team's own, such as `eu`, `us-east` or `on-prem`. Case does not matter."""

import re
from typing import Final

# The one label with a meaning of its own: the network that the gateway runs in.
IN_CLUSTER: Final = "in_cluster"
EXPECTED: Final = "1 to 64 letters, digits and _ . -, which begin and end with a letter or a digit"
_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9_.-]{0,62}[a-z0-9])?")


def location_of(text: str) -> str:
    """The label in lower case. Raises ValueError."""
    label = text.strip().lower()
    if not text.isascii() or not _LABEL.fullmatch(label):  # some letters have a lower case in ASCII
        raise ValueError(f"{text!r} is not a location: expected {EXPECTED}")
    return label


def locations_of(text: str) -> frozenset[str]:
    """The labels of a list with commas, at least one. Raises ValueError."""
    return frozenset(location_of(part) for part in text.split(","))


def listed(locations: frozenset[str]) -> str:
    """The labels in a fixed order, for messages and logs."""
    return ", ".join(sorted(locations))
