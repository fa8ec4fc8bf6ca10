"""One transformer over several processes, each with a device: diffusers' context parallelism (Ulysses).

Every process holds all weights and a share of the tokens; they exchange them inside attention. Ring attention is no
choice: it needs what torch's own attention does not return. Equal to one process but for the order of additions in a
matrix product of fewer rows.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

PATIENCE = timedelta(minutes=5)
"""How long a process waits for the others inside a forward, or for all to come; a dead one is noticed at once."""


def open_store(processes: int) -> Any:
    """Rank 0: where the processes of this machine will meet, at a free port (`.port`)."""
    return TCPStore("127.0.0.1", 0, processes, is_master=True, wait_for_workers=False, timeout=PATIENCE)


def reach_store(port: int, processes: int) -> Any:
    """The other ranks: the same, at rank 0's port."""
    return TCPStore("127.0.0.1", port, processes, is_master=False, timeout=PATIENCE)


def join(rank: int, processes: int, store: Any, device: torch.device) -> None:
    """Meet the other processes; blocks until all have come."""
    # Lengths of shares travel over gloo, which diffusers asks for by this name, also where there is no GPU.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "cpu:gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=processes, timeout=PATIENCE)


def spread(transformer: Any, device: torch.device) -> None:
    """Share every forward of this transformer among the processes that have joined; all of them must call it."""
    from diffusers import ContextParallelConfig, ParallelConfig
    from diffusers.hooks import apply_context_parallel

    # Prompts have any length and pictures any number of tokens: equal shares cannot be asked for.
    shares = ContextParallelConfig(ulysses_degree=dist.get_world_size(), ulysses_anything=True)
    mesh = dist.device_mesh.init_device_mesh(device.type, shares.mesh_shape, mesh_dim_names=shares.mesh_dim_names)
    config = ParallelConfig(context_parallel_config=shares)
    config.setup(dist.get_rank(), dist.get_world_size(), device, mesh=mesh)
    # What enable_parallelism does, which divides by the number of accelerators before it and so needs one.
    transformer.set_attention_backend("native")
    transformer._parallel_config = config
    for block in transformer.transformer_blocks:
        block.attn.processor._parallel_config = config
    apply_context_parallel(transformer, shares, transformer._cp_plan)
