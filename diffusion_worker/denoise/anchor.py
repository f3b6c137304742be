"""How strongly a canvas that started from a given text keeps to what the net makes of it.

Pure functions of tensors. A plain warm start is lost after one step: nearly all positions are re-noised. An anchor of
strength a in (0, 1] instead (1) begins the schedule colder, as in SDEdit (Meng et al. 2022, arXiv:2108.01073), where
the strength of an edit is the noise level it starts from, and (2) lets a position that is not accepted keep the net's
own surest token where that is likely enough. Both release the given text wherever the net disagrees.
"""

import torch


def reduced_span(span: float, anchor: float) -> float:
    """What is left of the span between t_max and t_min: all of it without an anchor, nothing at strength 1."""
    return span * (1.0 - anchor)


def kept(likeliest: torch.Tensor, anchor: torch.Tensor) -> torch.Tensor:
    """Positions [rows, canvas] that keep their surest token, whose probability is `likeliest` [rows, canvas]: those
    above 1 - a / 2. Without an anchor, none."""
    return (likeliest >= 1.0 - anchor[:, None] / 2.0) & (anchor[:, None] > 0.0)
