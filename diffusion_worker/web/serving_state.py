"""State shared by all requests: the engine, the tokenization of the checkpoint, API keys and telemetry.

The tokenization is loaded with the weights and is None until then.
"""

from dataclasses import dataclass, field

from diffusion_worker.constraint_service.service import ConstraintService
from diffusion_worker.engine.engine import Engine
from diffusion_worker.errors import NotResident
from diffusion_worker.telemetry.metrics import Meters
from diffusion_worker.telemetry.tracing import Tracing
from diffusion_worker.text.chat_template import ChatTemplate, TemplateFeatures
from diffusion_worker.text.tokenizer import Tokenizer
from diffusion_worker.types.model_info import ModelInfo
from diffusion_worker.types.observations import RefusalObserved
from diffusion_worker.types.requests import DecodingMode
from diffusion_worker.web.error_body import ModelNotFound
from twolane.process.http.byte_budget import ByteBudget
from twolane.process.keys_file import KeysFile
from twolane.process.running_requests import RunningRequests


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokenization:
    """Tokenizer and chat template of a checkpoint."""

    tokenizer: Tokenizer
    template: ChatTemplate


@dataclass(slots=True, kw_only=True)
class ServingState:
    """One per process. The model loader sets `tokenization` before the engine is ready."""

    model: str
    version: str
    created: int  # Unix seconds
    engine: Engine
    meters: Meters
    max_body_bytes: int
    byte_budget: ByteBudget
    keys: KeysFile | None = None
    open_metrics: bool = False  # /metrics needs no key
    tracing: Tracing | None = None
    tokenization: Tokenization | None = None
    constraint_service: ConstraintService = field(default_factory=ConstraintService)
    running: RunningRequests = field(default_factory=RunningRequests)
    aliases: dict[str, DecodingMode] = field(init=False)

    def __post_init__(self) -> None:
        self.aliases = {_id_of("diffusion", decoding_mode): decoding_mode for decoding_mode in DecodingMode}

    def model_id(self, decoding_mode: DecodingMode) -> str:
        """The model id of a decoding mode."""
        return _id_of(self.model, decoding_mode)

    def decoding_mode_of(self, model: str) -> DecodingMode:
        """The decoding mode of a model id or alias. Raises ModelNotFound."""
        for decoding_mode in DecodingMode:
            if model == self.model_id(decoding_mode):
                return decoding_mode
        if model in self.aliases:
            return self.aliases[model]
        known = ", ".join([*map(self.model_id, DecodingMode), *self.aliases])
        raise ModelNotFound(f"Model '{model}' not found; available: {known}.", param="model")

    @property
    def features(self) -> TemplateFeatures | None:
        """Features of the chat template; None before it is loaded."""
        return self.tokenization.template.features if self.tokenization else None

    def loaded(self) -> tuple[Tokenization, ModelInfo]:
        """Tokenization and info of the loaded model. Raises and counts NotResident or Draining."""
        info = self.engine.info
        if self.tokenization is None or info is None:
            error = self.engine.refusal() or NotResident("the weights are not loaded yet", retry_after_s=1.0)
            self.meters.observe(RefusalObserved(reason=error.code))
            raise error
        return self.tokenization, info


def _id_of(name: str, decoding_mode: DecodingMode) -> str:
    return name if decoding_mode is DecodingMode.DIFFUSION else f"{name}:{decoding_mode.value}"
