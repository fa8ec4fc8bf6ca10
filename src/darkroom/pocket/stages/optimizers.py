"""Which optimizer trains which parameter of the transformer and the text encoder."""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import nn

from darkroom.pocket.stages.muon import Muon


class Rates(Protocol):
    """Peak learning rates; `gentle` is the factor for what a good start has filled in."""

    @property
    def matrix_lr(self) -> float: ...
    @property
    def vector_lr(self) -> float: ...
    @property
    def embedding_lr(self) -> float: ...
    @property
    def gentle(self) -> float: ...


def make_optimizers(trained: Mapping[str, nn.Parameter], rates: Rates) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices; AdamW for what is read or written by rows, modulations and vectors."""
    groups: dict[str, list[nn.Parameter]] = {name: [] for name in ("matrix", "begun", "vector", "edge", "embedding")}
    for name, parameter in trained.items():
        groups[_group(name, parameter)].append(parameter)
    matrices = [
        {"params": groups["matrix"], "peak": rates.matrix_lr},
        {"params": groups["begun"], "peak": rates.matrix_lr * rates.gentle},
    ]
    others = [
        {"params": groups["vector"], "peak": rates.vector_lr},
        {"params": groups["edge"], "peak": rates.vector_lr * rates.gentle},
        {"params": groups["embedding"], "peak": rates.embedding_lr},
    ]
    return [Muon(matrices), torch.optim.AdamW(others, weight_decay=0.0, betas=(0.9, 0.98))]


def _group(name: str, parameter: nn.Parameter) -> str:
    if "embed_tokens" in name:
        return "embedding"
    begun = "transformer_blocks.0.attn." in name and "add" not in name
    if parameter.ndim == 2 and ("blocks." in name or "layers." in name) and "_mod." not in name:
        return "begun" if begun else "matrix"
    edges = ("img_in", "proj_out", "norm_out", "time_text_embed")
    return "edge" if begun or any(edge in name for edge in edges) else "vector"


def set_rates(optimizers: list[torch.optim.Optimizer], factor: float) -> None:
    """Every group at `factor` of its peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor
