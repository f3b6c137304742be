"""A tiny deterministic model on the CPU that completes every prompt with a scripted text, by default the prompt itself.

It uses the same cache, loop and scheduler as real weights, in microseconds per pass; it ships for tests and dry runs.
Its "keys" are the context ids and its "values" mark output tokens, so that it can read both back from the cache.
"""

import time
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

import torch

from diffusion_worker.models.interface import CanvasContext, DiffusionModel, PrefillContext
from diffusion_worker.types.model_info import LayerKv, ModelInfo, StepShape
from diffusion_worker.types.requests import DenoisingParams

Script = Callable[[tuple[int, ...]], tuple[int, ...]]  # prompt ids -> output ids; the first end token is appended
_DENOISING = DenoisingParams(canvas_length=16)
SURE, UNSURE = 40.0, 1.0  # logit of the scripted token, all others are 0


@dataclass(eq=False)
class ToyModel:
    """A scripted model. A canvas converges from left to right, `pace` positions per step; `confidence` below 1 lowers
    the probability of every output token; `seconds_per_pass` slows it down."""

    script: Script = tuple  # by default the prompt itself
    _: KW_ONLY
    vocab_size: int = 264
    end_ids: tuple[int, ...] = (1,)
    pad_id: int = 0
    denoising: DenoisingParams = _DENOISING
    max_context: int = 4096
    pace: int = 8
    confidence: float = 1.0
    seconds_per_pass: float = 0.0

    def __post_init__(self) -> None:
        self.info = ModelInfo(
            vocab_size=self.vocab_size,
            hidden_size=1,
            step=StepShape(vocab_size=self.vocab_size, attention_width=1, feed_forward_width=1),
            max_context=self.max_context,
            denoising=self.denoising,
            end_ids=self.end_ids,
            pad_id=self.pad_id,
            parameters=0,
            dtype="float32",
            weight_bytes=0,
        )
        self.kv_layers = (LayerKv(heads=1, head_dim=1, window=None),)
        self.device = torch.device("cpu")
        self.dtype = torch.float32
        self.passes = 0
        self._sure = _logit_of(self.confidence, self.vocab_size)

    @property
    def for_templates(self) -> DiffusionModel:
        """Itself."""
        return self

    @property
    def is_compiled(self) -> bool:
        """It never is."""
        return False

    @property
    def mixed_pass(self) -> None:
        """It has none."""
        return

    def encode(self, ids: torch.Tensor, context: PrefillContext) -> torch.Tensor:
        """Hidden states [rows, new, 1] are the next id, from which `logits` follow."""
        self._take_time()
        fresh = ids[:, None, :, None].float()
        keys, values = context.update(fresh, torch.zeros_like(fresh), 0)
        mask = context.masks["full_attention"]
        is_answer = torch.zeros_like(fresh)
        for row in range(len(ids)):
            before = keys.shape[2] - ids.shape[1]
            seen = slice(before) if mask is None else mask[row, 0, 0, :before]
            count = self._continued(keys[row, 0, :before, 0][seen], values[row, 0, :before, 0][seen], ids[row])
            is_answer[row, 0, :count] = 1.0
        keys, values = context.update(fresh, is_answer, 0)
        hidden = torch.zeros(*ids.shape, 1)
        for row in range(len(ids)):
            for new in range(ids.shape[1]):
                seen = slice(None) if mask is None else mask[row, 0, new]
                prompt, answer = _split(keys[row, 0, :, 0][seen], values[row, 0, :, 0][seen])
                hidden[row, new, 0] = self._follow(prompt, answer, 1)[0]
        return hidden

    def denoise(
        self,
        canvas: torch.Tensor,
        soft: torch.Tensor,  # noqa: ARG002 - the canvas is enough for the toy
        context: CanvasContext,
    ) -> torch.Tensor:
        """Logits that are confident of the script up to `pace` positions beyond its prefix on the canvas."""
        self._take_time()
        rows, length = canvas.shape
        logits = torch.zeros(rows, length, self.vocab_size)
        mask = context.masks["full_attention"]
        for row in range(rows):
            count = context.layers[0].keys.shape[2]
            seen = slice(None) if mask is None else mask[row, 0, 0, :count]
            keys, values = context.layers[0].keys[row, 0, :, 0][seen], context.layers[0].values[row, 0, :, 0][seen]
            wanted = torch.tensor(self._follow(*_split(keys, values), length))
            settled = int((canvas[row] == wanted).long().cumprod(dim=0).sum())
            strength = torch.where(torch.arange(length) < settled + self.pace, self._sure, UNSURE)
            logits[row].scatter_(1, wanted[:, None], strength[:, None])
        return logits

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states [..., 1] to logits [..., vocab]."""
        scores = torch.zeros(*hidden.shape[:-1], self.vocab_size)
        return scores.scatter_(-1, hidden.long(), self._sure)

    def prompt_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """The same as `logits`."""
        return self.logits(hidden)

    def soften(self, probabilities: torch.Tensor) -> torch.Tensor:
        """Mean id under the probabilities: [rows, canvas, 1]."""
        ids = torch.arange(self.vocab_size, dtype=probabilities.dtype)
        return (probabilities @ ids)[..., None]

    def _continued(self, keys: torch.Tensor, values: torch.Tensor, ids: torch.Tensor) -> int:
        """How many of the first ids [new] continue the scripted output: contexts are assembled from cached prefixes, so
        the position of a token does not show whether it belongs to the prompt."""
        if not len(keys):
            return 0
        script = self._follow(*_split(keys, values), len(ids))
        return int((ids == torch.tensor(script)).long().cumprod(dim=0).sum())

    def _follow(self, prompt: tuple[int, ...], answered: int, count: int) -> list[int]:
        script = (*self.script(prompt), self.end_ids[0])[answered : answered + count]
        return [*script, *[self.pad_id] * (count - len(script))]

    def _take_time(self) -> None:
        self.passes += 1
        if self.seconds_per_pass:
            time.sleep(self.seconds_per_pass)


def _split(keys: torch.Tensor, values: torch.Tensor) -> tuple[tuple[int, ...], int]:
    """Context as written by `encode` -> (prompt ids, output tokens so far). Output that is followed by more prompt
    counts as prompt."""
    answered = int((values > 0).flip(0).long().cumprod(0).sum())
    return tuple(int(key) for key in keys[: len(keys) - answered].tolist()), answered


def _logit_of(probability: float, vocab_size: int) -> float:
    """The logit that gives one token this probability when all others have logit 0."""
    if probability >= 1.0:
        return SURE
    return float(torch.log(torch.tensor(probability * (vocab_size - 1) / (1.0 - probability))))
