"""True classifier-free guidance as Qwen-Image takes it."""

from __future__ import annotations

import torch
from torch import Tensor


def true_cfg(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Extrapolate from the unconditional velocity, then keep the conditional one's length per token.

    conditional, unconditional: [B, N, C] velocities. scale: above 1.
    Ho & Salimans, "Classifier-Free Diffusion Guidance", 2022; the rescaling is Qwen-Image's (diffusers,
    QwenImageEditPlusPipeline), whose order of operations is kept so that float32 results are equal bit for bit.
    """
    combined = unconditional + scale * (conditional - unconditional)
    length: Tensor = torch.norm(conditional, dim=-1, keepdim=True)
    combined_length: Tensor = torch.norm(combined, dim=-1, keepdim=True)
    return combined * (length / combined_length)
