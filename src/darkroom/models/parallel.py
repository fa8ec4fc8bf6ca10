"""One transformer over several processes, each with a device: diffusers' context parallelism (Ulysses).

Every process holds all weights and a share of the tokens; they exchange them inside attention. Rank 0 runs the job and
leads; the others follow its forwards. Ring attention is no choice: it needs what torch's own attention does not return.
Equal to one process but for the order of additions in a matrix product of fewer rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def join(rank: int, processes: int, address: str, device: torch.device) -> None:
    """Meet the other processes at `address` ("tcp://host:port"); blocks until all have come."""
    # Lengths of shares travel over gloo, which diffusers asks for by this name, also where there is no GPU.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "cpu:gloo"
    dist.init_process_group(backend, init_method=address, rank=rank, world_size=processes)


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


@contextmanager
def leading(transformer: Any) -> Iterator[None]:
    """Rank 0: inside the block every forward of the transformer is run by the followers too, who go home after it.

    A LoRA is refused with RuntimeError: the followers do not wear it, and would answer as if there were none.
    """

    def tell(module: Any, args: tuple[Any, ...], inputs: dict[str, Any]) -> None:
        if args:
            raise RuntimeError("a forward that is followed takes its inputs by name")
        if getattr(module, "peft_config", None):
            raise RuntimeError("a transformer over several processes takes no LoRA yet")
        _broadcast({name: _on_cpu(value) for name, value in inputs.items()})

    hook = transformer.register_forward_pre_hook(tell, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
        _broadcast(None)


@torch.no_grad()
def follow(transformer: Any, device: torch.device) -> int:
    """The other ranks: run every forward of rank 0 until it stops leading; returns how many there were."""
    forwards = 0
    while (inputs := _broadcast(None)) is not None:
        moved = {n: value.to(device) if isinstance(value, Tensor) else value for n, value in inputs.items()}
        transformer(**moved)
        forwards += 1
    return forwards


def _broadcast(inputs: dict[str, Any] | None) -> dict[str, Any] | None:
    """Rank 0's value, in every rank."""
    box = [inputs]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def _on_cpu(value: Any) -> Any:
    return value.cpu() if isinstance(value, Tensor) else value
