"""What the sampler costs at the width of the released checkpoint, counted on `meta`: launches, traffic and memory.

A fused operation counts as one launch that reads and writes its arguments, as where it is compiled;
`test_fused.py` compiles them. Without a compiler they run in blocks of positions, whose memory is counted here too.
"""

from array import array
from collections.abc import Iterable
from typing import Any, Final

import pytest
import torch

from benchmarks.gpu.dispatch_counts import DispatchCounts
from diffusion_worker.denoise import logit_reads, truncation
from diffusion_worker.denoise.canvas import fresh
from diffusion_worker.denoise.draws import CounterDraws
from diffusion_worker.denoise.step import advance, inputs_of
from diffusion_worker.types.requests import DenoisingParams, Penalties, Truncation
from diffusion_worker.types.step_batch import Denoise, PenaltyInputs
from tests.worker.denoise.test_step_memory import META, released
from tests.worker.live_bytes import LiveBytes

VOCAB: Final = 262_144
MIB: Final = 1 << 20
LOGITS_MIB: Final = 256 * VOCAB * 2 // MIB
MOST_MIB, MOST_BYTES, MOST_LAUNCHES = 150, 1_000_000_000, 15  # per row; launches per step
PENALTIES = PenaltyInputs(penalties=Penalties(presence=0.1, repetition=1.1), prompt=array("q", range(VOCAB)))
WISHES: Final[dict[str, dict[str, Any]]] = {
    "temperature": {"temperature": 0.7},
    "penalties": {"penalties": PENALTIES},
    "truncation": {"truncation": Truncation(top_k=50, top_p=0.9, min_p=0.01)},
    "pins": {"pinned_prefix": (5, 6, 7)},
}


class Reads(DispatchCounts):
    """`reads`: how often all logits are read, at once or in parts."""

    def __init__(self, logits: torch.Tensor, apart: Iterable[torch.Tensor]) -> None:
        super().__init__("meta", apart=apart)
        self._logits, self._numbers = logits, 0

    @property
    def reads(self) -> float:
        return self._numbers / self._logits.numel()

    def _moved(self, name: str, args: Any, result: Any) -> int:
        if name not in ("gather", "index", "grouped_scores", "index_put_"):  # these touch few of them
            storage = self._logits.untyped_storage()._cdata
            tensors = (each for each in args[name == "copy_" :] if isinstance(each, torch.Tensor))
            self._numbers += sum(each.numel() for each in tensors if each.untyped_storage()._cdata == storage)
        return super()._moved(name, args, result)


class Cost:
    """Counts of one step of `rows` canvases after the pass."""

    @torch.inference_mode()
    def __init__(self, rows: int, canvas: int = 256, **wishes: Any) -> None:
        model = released()
        table = model._decoder.embed_tokens.weight
        denoising = DenoisingParams(canvas_length=canvas)
        items = [
            Denoise(
                sequence=row, slot=row, at=100, block=0, step=3, opens=False, denoising=denoising, seed=row, **wishes
            )
            for row in range(rows)
        ]
        ids = torch.zeros(canvas, dtype=torch.long, device=META)
        inputs = inputs_of(items, [fresh(ids, model.info.hidden_size, model.dtype) for _ in items])
        logits = torch.empty(rows, canvas, VOCAB, dtype=torch.bfloat16, device=META)
        self.counts, memory = Reads(logits, apart=[table]), LiveBytes([logits, table])
        with self.counts, memory:
            advance(model, inputs, logits, CounterDraws(META))
        self.beside_logits_mib = memory.peak / rows / MIB


@pytest.mark.parametrize("rows", [1, 8])
def test_a_step_is_few_launches_reads_its_logits_few_times_and_copies_them_never(rows: int) -> None:
    cost = Cost(rows)
    assert cost.counts.launches.total() <= MOST_LAUNCHES, cost.counts.launches
    assert cost.counts.moved <= rows * MOST_BYTES, cost.counts.bytes_by_operation
    assert cost.counts.launches["matmul"] == 1, "the word table is read once, for any number of rows"
    assert LOGITS_MIB + cost.beside_logits_mib <= MOST_MIB


@pytest.mark.parametrize("wish", WISHES)
def test_a_row_that_asks_is_read_at_most_once_more_and_copied_never(wish: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a row together count as one read. Counted over few positions: the blocks are the same."""
    monkeypatch.setattr(truncation, "_ONE_BITS", 7)  # bisect three bits of numbers that nobody reads: the same tensors
    plain, asking = Cost(1, canvas=16), Cost(1, canvas=16, **WISHES[wish])
    assert asking.counts.reads <= plain.counts.reads + 1.0
    assert LOGITS_MIB + Cost(1).beside_logits_mib + asking.beside_logits_mib <= MOST_MIB


def test_without_a_compiler_the_reads_run_in_blocks_of_bounded_memory() -> None:
    logits = torch.empty(1, 256, VOCAB, dtype=torch.bfloat16, device=META)
    position, row = torch.empty(1, 256, device=META), torch.empty(1, device=META)
    uniforms, sums = torch.empty(1, 256, dtype=torch.double, device=META), torch.empty(3, 1, 256, 512, device=META)
    for run in (
        lambda: logit_reads._sums_in_blocks(logits, position.bfloat16(), row, 30.0),
        lambda: logit_reads._weigh_in_blocks(logits, position, row, position, 30.0),
        lambda: logit_reads.grouped_scores.__wrapped__(logits, position.bfloat16(), row, sums, uniforms, 30.0),
    ):
        with LiveBytes([logits]) as memory:
            run()
        assert LOGITS_MIB + memory.peak / MIB <= MOST_MIB
