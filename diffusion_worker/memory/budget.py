"""How many bytes a context takes and how many contexts fit: plain arithmetic, done before any tensor exists.

Knows shapes and sizes; knows no tensors, devices or requests.
"""

from collections.abc import Sequence

from diffusion_worker.errors import BadSetting
from diffusion_worker.records import LayerKv


def tokens_kept(layer: LayerKv, tokens: int) -> int:
    """How many of `tokens` context tokens a layer holds. A sliding layer keeps window - 1: the token that looks back is
    itself the last of the window."""
    return tokens if layer.window is None else min(layer.window - 1, tokens)


def context_bytes(layers: Sequence[LayerKv], tokens: int, itemsize: int) -> int:
    """Bytes of keys and values of one context of `tokens` tokens."""
    return sum(2 * layer.heads * layer.head_dim * tokens_kept(layer, tokens) for layer in layers) * itemsize


def fit_slots(wanted: int, *, slot_bytes: int, free_bytes: int) -> int:
    """As many slots as wanted and as fit. Raises BadSetting if not even one does."""
    fitting = min(wanted, free_bytes // slot_bytes)
    if fitting < 1:
        raise BadSetting(
            f"the memory limit leaves {max(free_bytes, 0)} bytes beside the weights, one context needs {slot_bytes}"
        )
    return fitting
