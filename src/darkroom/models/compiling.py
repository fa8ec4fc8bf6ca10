"""What torch.compile has made, kept in a folder, so that only the first worker of its kind compiles."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

log = logging.getLogger(__name__)

DIGEST_BYTES = 32


class CompileCache:
    """One file per kind of worker: torch, Triton, chip, the transformer's shapes and how its matrices are stored.

    Pictures and prompts of other lengths share it.

    The folder is trusted like the weights beside it, since it holds code. A damaged file is ignored and written anew.
    """

    def __init__(self, folder: Path, transformer: Any) -> None:
        self.path = folder / f"{key(transformer)}.bin"
        self._graphs = graphs()
        self._load()

    def _load(self) -> None:
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            log.warning("compiled code is not read: %s", error)
            return
        digest, artifacts = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
        if hashlib.sha256(artifacts).digest() != digest:
            log.warning("compiled code in %s is damaged and made anew", self.path.name)
            return
        torch.compiler.load_cache_artifacts(artifacts)

    def keep(self) -> None:
        """Write the file where something was compiled since; a folder that cannot be written costs only that."""
        if graphs() == self._graphs:
            return
        self._graphs = graphs()
        saved = torch.compiler.save_cache_artifacts()
        if saved is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            beside = self.path.with_name(f"{self.path.name}.{os.getpid()}.part")
            beside.write_bytes(hashlib.sha256(saved[0]).digest() + saved[0])
            beside.replace(self.path)
        except OSError as error:
            log.warning("compiled code is not kept: %s", error)


def key(transformer: Any) -> str:
    """The file's name without its ending."""
    config = transformer.config
    shapes = (
        config.num_attention_heads, config.attention_head_dim, config.joint_attention_dim, config.zero_cond_t,
        str(transformer.img_in.bias.dtype), type(transformer.transformer_blocks[0].attn.to_q.weight).__name__,
    )  # fmt: skip
    named = repr((torch.__version__, _triton(), chip(transformer.device), shapes))
    return hashlib.sha256(named.encode()).hexdigest()[:32]


def chip(device: torch.device) -> str:
    """The device's architecture, for which code is made."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} sm_{'{}{}'.format(*torch.cuda.get_device_capability(device))}"
    return torch.backends.cpu.get_cpu_capability()


def graphs() -> int:
    """How many graphs this process has compiled."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


def full(function: Callable[..., Any]) -> bool:
    """Whether torch.compile holds all the forms of this function that it keeps; one more runs uncompiled."""
    from torch._dynamo.eval_frame import _debug_get_cache_entry_list

    return len(_debug_get_cache_entry_list(function.__code__)) >= torch._dynamo.config.recompile_limit


def _triton() -> str | None:
    try:
        return version("triton")
    except PackageNotFoundError:
        return None
