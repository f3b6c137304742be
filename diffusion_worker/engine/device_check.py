"""Tells a failed device from requests that fail: steps a small request of the worker's own.

Prompt, canvas and cache are fixed, so that nothing a client sends can make it fail.
"""

from dataclasses import replace

from diffusion_worker.denoise.stepper import Stepper
from diffusion_worker.engine.step_cost import positions_of
from diffusion_worker.memory.kv_cache import KvCache
from diffusion_worker.models.interface import DiffusionModel
from diffusion_worker.types.step_batch import Batch, Decode, Denoise, Prefill

CANVAS = 8  # positions, at most


class DeviceCheck:
    """One step with a prefill, a canvas step and a decode, over a cache of its own that is allocated beforehand."""

    def __init__(self, model: DiffusionModel) -> None:
        info = model.info
        ids = (info.vocab_size // 2, info.vocab_size // 3)  # ordinary tokens; special ones come first or last
        length = min(CANVAS, info.denoising.canvas_length)
        denoising = replace(info.denoising, canvas_length=length, steps=1)
        self._batch = Batch(
            releases=(1,),
            prefills=(Prefill(sequence=1, slot=0, ids=ids, at=0),),
            denoises=(
                Denoise(sequence=1, slot=0, at=len(ids), block=0, step=1, opens=True, denoising=denoising, seed=0),
            ),
            decodes=(Decode(sequence=2, slot=1, ids=ids, at=0, seed=0),),
        )
        cache = KvCache(model.kv_layers, slots=2, slot_tokens=len(ids), dtype=model.dtype, device=model.device)
        self._stepper = Stepper(model, cache)
        self.positions = positions_of(self._batch)

    def failure(self) -> Exception | None:
        """The error of the step; None if the device is well."""
        try:
            result = self._stepper.step(self._batch)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the result of the check
            return error
        return result.faults[0].error if result.faults else None
