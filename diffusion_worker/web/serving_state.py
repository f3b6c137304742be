"""What the web layer works with: the engine, the words of the checkpoint, who may ask, where measurements go.

The words come with the weights, so they are absent until these are loaded.
"""

from dataclasses import dataclass, field

from diffusion_worker.constraint_service.service import ConstraintService
from diffusion_worker.engine.engine import Engine
from diffusion_worker.errors import NotResident
from diffusion_worker.telemetry.metrics import Meters
from diffusion_worker.telemetry.tracing import Tracing
from diffusion_worker.text.chat_template import Abilities, ChatTemplate
from diffusion_worker.text.tokenizer import Tokenizer
from diffusion_worker.types.model_info import ModelInfo
from diffusion_worker.types.observations import RefusalObserved
from diffusion_worker.types.requests import DecodingMode
from diffusion_worker.web.error_body import ModelNotFound
from twolane.process.api_keys import Keys


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """The text side of a checkpoint."""

    tokenizer: Tokenizer
    template: ChatTemplate


@dataclass(slots=True, kw_only=True)
class ServingState:
    """One per process. `words` is set once, by whoever loads, before the engine is ready."""

    model: str
    version: str
    created: int  # Unix seconds
    engine: Engine
    meters: Meters
    max_body_bytes: int
    keys: Keys | None = None
    tracing: Tracing | None = None
    words: Words | None = None
    constraint_service: ConstraintService = field(default_factory=ConstraintService)
    aliases: dict[str, DecodingMode] = field(init=False)

    def __post_init__(self) -> None:
        self.aliases = {"diffusion": DecodingMode.DIFFUSION, "diffusion:autoregressive": DecodingMode.AUTOREGRESSIVE}

    def id_of(self, decoding_mode: DecodingMode) -> str:
        """The model id under which a reading is served."""
        return self.model if decoding_mode is DecodingMode.DIFFUSION else f"{self.model}:{decoding_mode.value}"

    def reading_of(self, model: str) -> DecodingMode:
        """How a model id, or an alias of one, reads the weights. Raises ModelNotFound."""
        for decoding_mode in DecodingMode:
            if model == self.id_of(decoding_mode):
                return decoding_mode
        if model in self.aliases:
            return self.aliases[model]
        known = ", ".join([*map(self.id_of, DecodingMode), *self.aliases])
        raise ModelNotFound(f"The model '{model}' does not exist here; there are: {known}.", param="model")

    @property
    def abilities(self) -> Abilities | None:
        """What the checkpoint can do; None before it is loaded."""
        return self.words.template.abilities if self.words else None

    def resident(self) -> tuple[Words, ModelInfo]:
        """Words and facts of the loaded checkpoint. Raises NotResident or Draining, and counts the refusal."""
        info = self.engine.info
        if self.words is None or info is None:
            error = self.engine.refusal() or NotResident("the weights are not in memory yet", retry_after_s=1.0)
            self.meters.observe(RefusalObserved(reason=error.code))
            raise error
        return self.words, info
