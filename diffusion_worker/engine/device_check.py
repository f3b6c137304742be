"""Tells a failed device from requests that fail: steps a small request of the worker's own. Prompt, canvas and cache
are fixed, so that nothing a client sends can make it fail.
"""

from dataclasses import replace

from diffusion_worker.denoise.stepper import Stepper
from diffusion_worker.engine.step_cost import positions_of
from diffusion_worker.memory.kv_cache import KvCache
from diffusion_worker.models.interface import DiffusionModel
from diffusion_worker.types.step_batch import Batch, Decode, Denoise, Prefill

CANVAS = 8  # positions, at most


class DeviceCheck:
    """One step with a prefill, a canvas step and a decode, over a cache of its own that is allocated beforehand; steps
    of canvases alone for kernels that differ by the number of rows."""

    def __init__(self, model: DiffusionModel) -> None:
        info = model.info
        ids = (info.vocab_size // 2, info.vocab_size // 3)  # ordinary tokens; special ones come first or last
        length = min(CANVAS, info.denoising.canvas_length)
        denoising = replace(info.denoising, canvas_length=length, steps=1)
        canvas = Denoise(sequence=1, slot=0, at=len(ids), block=0, step=1, opens=True, denoising=denoising, seed=0)
        self._batch = Batch(
            releases=(1, 3),
            prefills=(Prefill(sequence=1, slot=0, ids=ids, at=0),),
            denoises=(canvas,),
            decodes=(Decode(sequence=2, slot=1, ids=ids, at=0, seed=0),),
        )
        self._canvases = [
            Batch(denoises=rows, releases=(1, 3))
            for rows in ((canvas,), (canvas, replace(canvas, sequence=3, slot=1, seed=1)))
        ]
        self._prompt = Batch(prefills=self._batch.prefills)
        cache = KvCache(model.kv_layers, slots=2, slot_tokens=len(ids), dtype=model.dtype, device=model.device)
        self._stepper = Stepper(model, cache)
        self.positions = positions_of(self._batch)

    def failure(self) -> Exception | None:
        """The error of the step; None if the device is well."""
        return self._failure_of(self._batch)

    def failure_of_kinds(self) -> Exception | None:
        """The error of steps of all kinds that compiled passes differ by; None if there is none."""
        failures = map(self._failure_of, (self._batch, self._prompt, *self._canvases))
        return next((failure for failure in failures if failure is not None), None)

    def _failure_of(self, batch: Batch) -> Exception | None:
        try:
            result = self._stepper.step(batch)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the result of the check
            return error
        return result.faults[0].error if result.faults else None
