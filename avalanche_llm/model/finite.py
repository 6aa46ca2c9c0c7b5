"""Whether a tensor holds NaN or an infinity."""

import torch
from jaxtyping import Bool, Float


def all_finite(*tensors: Float[torch.Tensor, "..."]) -> Bool[torch.Tensor, ""]:
    """A flag on their device, which nothing waits for: of a NaN both extremes are NaN, and two numbers are asked for each tensor.

    A flag for every value takes ten times as long.
    """
    return torch.isfinite(torch.stack([extreme for tensor in tensors for extreme in torch.aminmax(tensor)])).all()
