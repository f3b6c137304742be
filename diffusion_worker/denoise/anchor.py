"""Anchoring: how strongly a canvas that starts from a given text keeps it.

Pure functions of tensors. Without an anchor, a warm start is lost after one step, because nearly all positions are
re-noised. An anchor of strength a in (0, 1] (1) starts the schedule at a lower temperature, as SDEdit starts at a lower
noise level (Meng et al. 2022, arXiv:2108.01073), and (2) lets a position that is not accepted keep its most likely
token where that is probable enough. Both release the given text wherever the model disagrees.
"""

import torch


def reduced_span(span: float, anchor: float) -> float:
    """The temperature span t_max - t_min of an anchored canvas: unchanged at strength 0, zero at strength 1."""
    return span * (1.0 - anchor)


def kept(likeliest: torch.Tensor, anchor: torch.Tensor) -> torch.Tensor:
    """Positions [rows, canvas] that keep their most likely token: those whose probability `likeliest` [rows, canvas] is
    at least 1 - a / 2 for anchor strengths a [rows]. At strength 0, none."""
    return (likeliest >= 1.0 - anchor[:, None] / 2.0) & (anchor[:, None] > 0.0)
