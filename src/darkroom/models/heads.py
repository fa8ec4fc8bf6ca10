"""Injection heads as files, and whether they fit the models at hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from darkroom.errors import InvalidInput
from darkroom.models.trained import Kind
from darkroom.technique.injection import HeadConfig, InjectionHead

HEAD = Kind("injection_head", "an injection head", lambda form: InjectionHead(HeadConfig(**form)))


@dataclass(frozen=True)
class Head:
    """A head, JSON values on its training, and, in a checkpoint to go on from, the training's own tensors."""

    module: InjectionHead
    about: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Tensor] = field(default_factory=dict)

    def fits(self, feature_width: int, levels: int, text_width: int) -> None:
        """Raise InvalidInput, naming both sides, for models of other dimensions."""
        config = self.module.config
        if (config.feature_width, config.levels, config.text_width) != (feature_width, levels, text_width):
            raise InvalidInput(
                f"head was made for {config.levels} levels of features of width {config.feature_width} and prompt "
                f"embeddings of width {config.text_width}; these models have {levels} of {feature_width} and "
                f"{text_width}",
                field="head",
            )


def untrained(config: HeadConfig, seed: int) -> InjectionHead:
    """A head before its first step; the same seed draws the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return InjectionHead(config)


def to_bytes(head: Head) -> bytes:
    """The file of a head."""
    return HEAD.to_bytes(head.module, head.module.config, head.about, head.training)


def from_bytes(data: bytes, name: str = "head") -> Head:
    """A head from the bytes of its file. Raises InvalidInput, which names `name`, for anything else."""
    module, about, training = HEAD.from_bytes(data, name)
    # Features come in float32, whatever type the head was stored in.
    return Head(module.float(), about, training)
