from collections.abc import Mapping
from typing import Any

VERSION: int

def read_chat(
    body: bytes, rules: Mapping[str, Any], max_values: int, max_messages: int, prefix_chars: int, /
) -> (
    tuple[dict[str, tuple[int, int]], tuple[str, int, bool, bool, int, str, str, str, str, int, str] | None] | None
): ...
