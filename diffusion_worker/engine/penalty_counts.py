"""The tokens that the penalties of a sequence count: those of its prompt, and those of its output so far."""

from array import array
from collections import Counter
from collections.abc import Sequence

from diffusion_worker.types.requests import GenerationRequest
from diffusion_worker.types.step_batch import PenaltyInputs


class PenaltyCounts:
    """The counts of one request. Output that the prompt holds, kept from an earlier attempt, counts as output."""

    def __init__(self, request: GenerationRequest) -> None:
        self._penalties = request.penalties
        has_repetition = self._penalties is not None and self._penalties.repetition != 1.0
        self._prompt = array("q", sorted(set(request.prompt_ids)) if has_repetition else ())
        self._output: Counter[int] = Counter()
        self._inputs: PenaltyInputs | None = None  # None: to be made for the current canvas or token
        self.add(request.prompt_ids[len(request.prompt_ids) - request.kept :])

    @property
    def inputs(self) -> PenaltyInputs | None:
        """The penalties and the tokens they count, one record until `add`; None without penalties."""
        if self._inputs is None and self._penalties is not None:
            output = tuple(self._output.items())
            self._inputs = PenaltyInputs(penalties=self._penalties, prompt=self._prompt, output=output)
        return self._inputs

    def add(self, ids: Sequence[int]) -> None:
        """Count output."""
        if self._penalties is not None:
            self._output.update(ids)
            self._inputs = None
