from collections.abc import Mapping

VERSION: int
HASH_BITS: int

class Scorer:
    def __init__(
        self,
        *,
        words: Mapping[str, int],
        pairs: Mapping[str, int],
        open_words: Mapping[str, int],
        numbers: tuple[int, int, int, int, int],
        sharpness: float,
        parts: Mapping[str, bytes | str],
    ) -> None: ...
    def __call__(
        self, system: str, user: str, earlier: str, answer: str, /
    ) -> tuple[int, tuple[float, ...], list[int]] | None: ...
