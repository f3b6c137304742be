"""Asynchronous host-to-device copies, through pinned memory.

A copy from pageable memory would block the host until the device's queue is empty.
"""

from collections.abc import Sequence
from typing import Any

import torch


def upload(numbers: Sequence[Any] | torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy numbers to the device; torch infers the dtype."""
    tensor = numbers if isinstance(numbers, torch.Tensor) else torch.tensor(numbers)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
