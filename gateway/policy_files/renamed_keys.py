"""Policy keys that were renamed, with their replacements. A policy that still uses one is refused with the new name."""

from collections.abc import Mapping
from typing import Final

TARGET: Final[Mapping[str, str]] = {"place": "`location`"}
ROUTE: Final[Mapping[str, str]] = {"keep": "`private: true`"}
VALIDATE: Final[Mapping[str, str]] = {
    "hold": "`buffer` (full, first_bytes or none)",
    "tell_fallback": "`send_error_to_fallback`",
}
SLO: Final[Mapping[str, str]] = {"hold_down_s": "`base_ejection_s`", "hold_down_max_s": "`max_ejection_s`"}
