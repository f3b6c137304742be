"""DiffusionGemma on the unmodified classes of transformers: their layers and weights, our cache and loop."""

from dataclasses import replace
from typing import Any

import torch
from torch.nn import functional as nnf
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from diffusion_worker.models.confidence import PromptHead
from diffusion_worker.models.fused_layers import CompiledDecoder, fuse_layers
from diffusion_worker.models.interface import SLIDING, CanvasContext, PrefillContext, capped
from diffusion_worker.models.mixed_pass import MixedPass, shares_layers
from diffusion_worker.types.model_info import LayerKv, ModelInfo, StepShape

CUSTOM_PREFIX = "twolane_"  # prefix of the names that we add to the library's registry of expert implementations
SINGLE_EXPERT = CUSTOM_PREFIX + "single_expert"
EVERY_EXPERT = CUSTOM_PREFIX + "every_expert"


class DiffusionGemmaModel:
    """A loaded `DiffusionGemmaForBlockDiffusion` behind the `DiffusionModel` interface."""

    def __init__(
        self,
        model: Any,
        info: ModelInfo,
        *,
        experts: str | None = None,
        is_exact: bool = False,
        prompt_head: PromptHead | None = None,
        for_templates: "DiffusionGemmaModel | None" = None,
    ) -> None:
        """Put `model` into evaluation mode and set its experts implementation: `experts`, or the fastest for its shape
        and dtype, or, if `is_exact`, one whose matrix shapes do not depend on the router. Quantised experts keep their
        own implementation."""
        self.info = replace(info, logit_cap=float(model.final_logit_softcapping or 0.0))
        self._model = model.eval()
        self._text = model.config.text_config
        self._encoder = model.model.encoder.language_model
        self._decoder = model.model.decoder
        self._soft: torch.Tensor | None = None
        self._prompt_head = prompt_head
        self._for_templates = for_templates
        self._compiled: CompiledDecoder | None = None
        if experts is None and info.quantised is None:
            experts = experts_implementation(self._text, model.dtype, is_exact=is_exact)
        if experts is not None:
            model.set_experts_implementation(experts)
        is_shared = not is_exact and shares_layers(self._encoder, self._decoder)
        self._mixed_pass = MixedPass(self._encoder, self._decoder, model.lm_head) if is_shared else None
        fuse_layers(self._encoder, self._decoder)
        # The decoder takes the last step's logits [canvas, vocab] and softens them itself. Passing the mean embeddings
        # [canvas, hidden] saves a softmax per step and, with 262144 tokens, 256 MiB per preempted request. Outside
        # `denoise` the hook does nothing, so that the model's own `generate()` still works.
        self._decoder.self_conditioning.register_forward_pre_hook(
            lambda _module, inputs: None if self._soft is None else (inputs[0], self._soft)
        )

    def compile(self) -> None:
        """Compile the passes from here on, except those over padded rows. There are four graphs, each of which takes
        minutes when it is first met: for canvases of a single row, of several, for causal rows, and for both together.
        Passes run eager if that fails, and those over templates always: a template takes two at most."""
        self._compiled = CompiledDecoder(self._decoder)
        if self._mixed_pass is not None:
            self._mixed_pass.compile()

    @property
    def is_compiled(self) -> bool:
        """See `DiffusionModel.is_compiled`."""
        return self._compiled is not None

    @property
    def kv_layers(self) -> tuple[LayerKv, ...]:
        """Cache shape of every layer."""
        return kv_shapes(self._text)

    @property
    def device(self) -> torch.device:
        """Device of weights and cache."""
        device: torch.device = self._model.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Type of weights and cache."""
        dtype: torch.dtype = self._model.dtype
        return dtype

    @property
    def for_templates(self) -> "DiffusionGemmaModel":
        """See `DiffusionModel.for_templates`."""
        return self._for_templates or self

    @property
    def mixed_pass(self) -> MixedPass | None:
        """See `DiffusionModel.mixed_pass`; None in exact mode, or if encoder and decoder have weights of their own."""
        return self._mixed_pass

    def encode(self, ids: torch.Tensor, context: PrefillContext) -> torch.Tensor:
        """See `DiffusionModel.encode`. Calls the text model directly; its wrapper only adds images."""
        hidden: torch.Tensor = self._encoder(
            input_ids=ids,
            attention_mask=context.masks,
            position_ids=context.positions,
            cache=context,
        ).last_hidden_state
        return hidden

    def denoise(self, canvas: torch.Tensor, soft: torch.Tensor, context: CanvasContext) -> torch.Tensor:
        """See `DiffusionModel.denoise`."""
        scores: torch.Tensor = self._model.lm_head(self._hidden(canvas, soft, context))
        return scores

    def _hidden(self, canvas: torch.Tensor, soft: torch.Tensor, context: CanvasContext) -> torch.Tensor:
        """Hidden states [rows, canvas, hidden]."""
        if self._compiled is not None and (found := self._compiled(canvas, soft, context)) is not None:
            return found
        self._soft = soft
        hidden: torch.Tensor = self._decoder(
            decoder_input_ids=canvas,
            cache=context,
            decoder_attention_mask=context.masks,
            decoder_position_ids=context.positions,
        ).last_hidden_state
        self._soft = None
        return hidden

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """See `DiffusionModel.logits`; the same operations in the same order as the library's head."""
        return capped(self._model.lm_head(hidden), self.info.logit_cap)

    def prompt_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """See `DiffusionModel.prompt_logits`."""
        return self.logits(hidden) if self._prompt_head is None else self._prompt_head(hidden)

    def soften(self, probabilities: torch.Tensor) -> torch.Tensor:
        """See `DiffusionModel.soften`; embeddings are scaled as the input embeddings are."""
        table: torch.Tensor = self._decoder.embed_tokens.weight
        scale: torch.Tensor = self._decoder.embed_tokens.embed_scale
        return torch.matmul(probabilities.to(table.dtype), table) * scale.to(table.dtype)


def kv_shapes(text_config: Any) -> tuple[LayerKv, ...]:
    """Cache shape of every layer, from a text config."""
    return tuple(
        LayerKv(
            heads=text_config.per_layer_config[index].num_key_value_heads,
            head_dim=text_config.per_layer_config[index].head_dim,
            window=text_config.sliding_window if kind == SLIDING else None,
        )
        for index, kind in enumerate(text_config.layer_types)
    )


def step_shape(text_config: Any, *, stays_packed: bool = False) -> StepShape:
    """Sizes that the memory of a step depends on. `stays_packed`: weights are, see `packed`. The widths count
    intermediates of the library's layers: copies of the hidden state around norms; queries before and after rotation;
    inputs and outputs of the experts of a token."""
    hidden = text_config.hidden_size
    queries = text_config.num_attention_heads * max(layer.head_dim for layer in kv_shapes(text_config))
    per_expert = 4 * hidden + 2 * (text_config.moe_intermediate_size or 0)
    return StepShape(
        vocab_size=text_config.vocab_size,
        attention_width=4 * hidden + 4 * queries,
        feed_forward_width=16 * hidden
        + 4 * text_config.intermediate_size
        + (text_config.top_k_experts or 0) * per_expert,
        unpacked=_unpacked(text_config) if stays_packed else 0,
    )


def _unpacked(text_config: Any) -> int:
    """Values of the largest packed matrices that are unpacked at a time: all experts of a layer, or one matrix."""
    experts: int = 3 * (text_config.num_experts or 0) * (text_config.moe_intermediate_size or 0)
    dense: int = text_config.intermediate_size
    return int(text_config.hidden_size) * max(experts, dense)


def experts_implementation(text_config: Any, dtype: torch.dtype, *, is_exact: bool = False) -> str:
    """Name of the fastest experts implementation: no dispatch for a single expert, otherwise grouped matrix products,
    which do not support fp64. Grouping makes matrix shapes depend on other rows; `is_exact` instead runs every expert
    on every token, at experts / top k times the cost."""
    if text_config.num_experts == 1 and text_config.top_k_experts == 1:
        return SINGLE_EXPERT
    if is_exact:
        return EVERY_EXPERT
    return "eager" if dtype == torch.float64 else "grouped_mm"


def _single_expert(experts: Any, hidden: torch.Tensor, _index: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """All tokens [tokens, hidden] through the only expert, scaled by its router weight [tokens, 1]."""
    return (_through(experts, 0, hidden) * weights).to(hidden.dtype)


def _every_expert(experts: Any, hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """All tokens [tokens, hidden] through all experts; `index` and `weights` [tokens, top k] select and weight them."""
    share = weights.new_zeros(len(hidden), experts.num_experts).scatter_add(1, index, weights)  # [tokens, experts]
    total = torch.zeros_like(hidden, dtype=torch.promote_types(hidden.dtype, weights.dtype))
    for expert in range(experts.num_experts):
        total = total + _through(experts, expert, hidden) * share[:, expert, None]
    return total.to(hidden.dtype)


def _through(experts: Any, expert: int, hidden: torch.Tensor) -> torch.Tensor:
    gate, up = nnf.linear(hidden, experts.gate_up_proj[expert]).chunk(2, dim=-1)
    return nnf.linear(experts.act_fn(gate) * up, experts.down_proj[expert])


ALL_EXPERTS_FUNCTIONS.register(SINGLE_EXPERT, _single_expert)
ALL_EXPERTS_FUNCTIONS.register(EVERY_EXPERT, _every_expert)
