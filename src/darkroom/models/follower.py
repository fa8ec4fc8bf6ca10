"""The other ranks of a worker with several GPUs: a process each, which runs what the worker's own process orders."""

from __future__ import annotations

import os
import pickle
import signal
import time
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread

import torch
from torch import Tensor

from darkroom.models.attention import use_attention
from darkroom.models.checkpoint import open_checkpoint
from darkroom.models.forward import Forward
from darkroom.models.lean import Grids
from darkroom.models.levers import Levers
from darkroom.models.lora import Lora, worn
from darkroom.models.parallel import join, reach_store, spread
from darkroom.models.specs import Profile

ORPHAN_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Load:
    """Load the transformer of a checkpoint's folder; answered when it is there."""

    folder: Path


@dataclass(frozen=True)
class Spread:
    """Meet the others at the leader's port, where this has not happened yet, and share the transformer's forwards."""

    port: int


@dataclass(frozen=True)
class Announce:
    """The timesteps of the next job."""

    timesteps: tuple[float, ...]


@dataclass(frozen=True)
class Wear:
    """Put these LoRAs on, in the place of those that are worn."""

    loras: tuple[Lora, ...]


@dataclass(frozen=True)
class Run:
    """One forward: the arguments of `Forward`, tensors on the CPU."""

    tokens: Tensor
    cells: int
    text: Tensor
    timestep: Tensor
    grids: Grids


@dataclass(frozen=True)
class Drop:
    """Let the transformer go."""


Order = Load | Spread | Announce | Wear | Run | Drop


def follow(orders: Connection, rank: int, processes: int, profile: Profile, leader: int) -> None:
    """Obey `leader`, a process id, until its end of the pipe closes or it is gone. An order is (number, Order).

    A follower that cannot go on dies of its exception, and the leader notices.
    """
    # Ctrl-C reaches the whole group of processes; the leader still finishes its jobs.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with, args=(leader,), daemon=True).start()
    device = torch.device(profile.device, rank) if profile.device == "cuda" else torch.device(profile.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    followed: dict[int, _Followed] = {}
    joined = False
    while True:
        try:
            number, order = pickle.loads(orders.recv_bytes())  # noqa: S301 from the leader alone, by a pipe without a name
        except EOFError:
            return
        if isinstance(order, Load):
            followed[number] = _Followed(order.folder, profile, device)
            orders.send_bytes(b"loaded")
        elif isinstance(order, Drop):
            del followed[number]
        else:
            if isinstance(order, Spread) and not joined:
                join(rank, processes, reach_store(order.port, processes), device)
                joined = True
            followed[number].obey(order)


class _Followed:
    """One transformer, on this process's device."""

    def __init__(self, folder: Path, profile: Profile, device: torch.device) -> None:
        checkpoint = open_checkpoint(folder, profile)
        self._profile, self._device = profile, device
        self._transformer = checkpoint.load({"transformer": device})["transformer"].result()
        levers = Levers(fold=profile.levers.fold)
        self._forward = Forward(self._transformer, levers, profile.cache_dir or checkpoint.cache, checkpoint.cache)
        self._clothes = ExitStack()

    @torch.no_grad()
    def obey(self, order: Order) -> None:
        if isinstance(order, Spread):
            spread(self._transformer, self._device)
            if self._profile.levers != Levers.none() or self._profile.attention != "auto":
                use_attention(self._transformer, self._profile.attention)
        elif isinstance(order, Announce):
            self._forward.announce(order.timesteps)
        elif isinstance(order, Wear):
            self._clothes.close()
            self._clothes.enter_context(worn(self._transformer, order.loras))
        elif isinstance(order, Run):
            tokens, text = (x.to(self._device) for x in (order.tokens, order.text))
            self._forward(tokens, order.cells, text, order.timestep, order.grids)


def _end_with(leader: int) -> None:
    """The pipe tells, too, but not where another process has inherited the leader's end of it, nor inside a forward."""
    while os.getppid() == leader:
        time.sleep(ORPHAN_POLL_SECONDS)
    os._exit(1)
