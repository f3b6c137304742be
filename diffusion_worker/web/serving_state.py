"""What the web layer works with: the engine, the words of the checkpoint, who may ask, where measurements go.

The words come with the weights, so they are absent until these are loaded.
"""

from dataclasses import dataclass, field

from diffusion_worker.constraint_service.service import Binder
from diffusion_worker.engine.engine import Engine
from diffusion_worker.errors import NotResident
from diffusion_worker.telemetry.metrics import Meters
from diffusion_worker.telemetry.tracing import Tracing
from diffusion_worker.text.chat_template import Abilities, ChatTemplate
from diffusion_worker.text.tokenizer import Tokenizer
from diffusion_worker.types.generation import NetFacts, Reading
from diffusion_worker.types.observations import RefusalObserved
from diffusion_worker.web.error_body import ModelNotFound
from diffusion_worker.web.keys import KeyRing


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """The text side of a checkpoint."""

    tokenizer: Tokenizer
    template: ChatTemplate


@dataclass(slots=True, kw_only=True)
class Desk:
    """One per process. `words` is set once, by whoever loads, before the engine is ready."""

    model: str
    version: str
    created: int  # Unix seconds
    engine: Engine
    meters: Meters
    max_body_bytes: int
    keys: KeyRing | None = None
    tracing: Tracing | None = None
    words: Words | None = None
    binder: Binder = field(default_factory=Binder)
    aliases: dict[str, Reading] = field(init=False)

    def __post_init__(self) -> None:
        self.aliases = {"diffusion": Reading.DIFFUSION, "diffusion:autoregressive": Reading.AUTOREGRESSIVE}

    def id_of(self, reading: Reading) -> str:
        """The model id under which a reading is served."""
        return self.model if reading is Reading.DIFFUSION else f"{self.model}:{reading.value}"

    def reading_of(self, model: str) -> Reading:
        """How a model id, or an alias of one, reads the weights. Raises ModelNotFound."""
        for reading in Reading:
            if model == self.id_of(reading):
                return reading
        if model in self.aliases:
            return self.aliases[model]
        known = ", ".join([*map(self.id_of, Reading), *self.aliases])
        raise ModelNotFound(f"The model '{model}' does not exist here; there are: {known}.", param="model")

    @property
    def abilities(self) -> Abilities | None:
        """What the checkpoint can do; None before it is loaded."""
        return self.words.template.abilities if self.words else None

    def resident(self) -> tuple[Words, NetFacts]:
        """Words and facts of the loaded checkpoint. Raises NotResident or Draining, and counts the refusal."""
        facts = self.engine.facts
        if self.words is None or facts is None:
            error = self.engine.refusal() or NotResident("the weights are not in memory yet", retry_after_s=1.0)
            self.meters.observe(RefusalObserved(reason=error.code))
            raise error
        return self.words, facts
