"""Numbers of the host as a tensor on the device, without making the host wait for what the device still has to do.

A copy from ordinary memory would: it lets the device's queue run dry. From pinned memory it is queued as a pass is.
"""

from collections.abc import Sequence
from typing import Any

import torch


def upload(numbers: Sequence[Any] | torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of these numbers, whose type torch chooses from theirs."""
    made = numbers if isinstance(numbers, torch.Tensor) else torch.tensor(numbers)
    if device.type == "cuda":
        made = made.pin_memory()
    return made.to(device, non_blocking=True)
