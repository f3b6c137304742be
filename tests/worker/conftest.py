"""Small random models of the real architecture, created within milliseconds."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    DiffusionGemmaConfig,
    DiffusionGemmaForBlockDiffusion,
    DiffusionGemmaTextConfig,
    Gemma4VisionConfig,
)

from diffusion_worker.models.diffusion_gemma import DiffusionGemmaModel, step_shape
from diffusion_worker.types.model_info import ModelInfo
from diffusion_worker.types.requests import DenoisingParams

MakeLibraryModel = Callable[..., Any]
MakeModel = Callable[..., DiffusionGemmaModel]


def _make_library_model(
    *,
    vocab: int = 61,
    canvas: int = 12,
    hidden: int = 32,
    layers: int = 3,
    full_every: int = 3,
    window: int = 16,
    experts: int = 1,
    seed: int = 0,
    spread: float = 0.25,
    dtype: torch.dtype = torch.float64,
) -> Any:
    """A random DiffusionGemma. A wide spread of weights makes it chaotic: one wrong bit shows in its canvases."""
    text = DiffusionGemmaTextConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        global_head_dim=16,
        num_global_key_value_heads=1,
        layer_types=["sliding_attention" if (index + 1) % full_every else "full_attention" for index in range(layers)],
        sliding_window=window,
        max_position_embeddings=512,
        num_experts=experts,
        top_k_experts=min(2, experts),
        moe_intermediate_size=16,
        use_bidirectional_attention="vision",
        final_logit_softcapping=30.0,
        initializer_range=spread,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    vision = Gemma4VisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=16,
        position_embedding_size=16,
    )
    config = DiffusionGemmaConfig(
        text_config=text,
        vision_config=vision,
        canvas_length=canvas,
        initializer_range=spread,
        image_token_id=3,
        boi_token_id=4,
        eoi_token_id=5,
    )
    torch.manual_seed(seed)
    model = DiffusionGemmaForBlockDiffusion(config).to(dtype).eval()
    model.set_experts_implementation("eager")
    return model


def _make_model(**shape: Any) -> DiffusionGemmaModel:
    """The same model behind our interface; `end_ids` and `is_exact` are optional."""
    end_ids, is_exact = shape.pop("end_ids", (1,)), shape.pop("is_exact", False)
    model = _make_library_model(**shape)
    text = model.config.text_config
    info = ModelInfo(
        vocab_size=text.vocab_size,
        hidden_size=text.hidden_size,
        step=step_shape(text),
        max_context=text.max_position_embeddings,
        denoising=DenoisingParams(canvas_length=model.config.canvas_length),
        end_ids=end_ids,
        pad_id=0,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        dtype=str(model.dtype).removeprefix("torch."),
        weight_bytes=sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()),
    )
    return DiffusionGemmaModel(model, info, is_exact=is_exact)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Use one thread: for models this small, more threads are slower. Tests of threads set their own number."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def make_library_model() -> MakeLibraryModel:
    """A maker of random transformers models; see `_make_model` for the shapes."""
    return _make_library_model


@pytest.fixture(scope="session")
def make_model() -> MakeModel:
    """A maker of random models behind our interface."""
    return _make_model
