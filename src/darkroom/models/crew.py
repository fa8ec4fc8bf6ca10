"""Several GPUs in one worker: the processes that run every forward of a transformer together with this one.

This process is rank 0: it runs the jobs and holds all parts. The others (`follower`) hold the transformer alone.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import pickle
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from darkroom.errors import GpuFault, InvalidInput, ModelNotReady, OutOfMemory
from darkroom.faults import is_out_of_memory
from darkroom.models.follower import Announce, Drop, Load, Order, Run, Spread, Wear, follow
from darkroom.models.lean import Grids
from darkroom.models.lora import Lora
from darkroom.models.parallel import join, open_store, spread
from darkroom.models.specs import Profile

log = logging.getLogger(__name__)

POLL_SECONDS = 0.001
"""Between two looks at the GPU and the followers while a forward runs, which takes some hundred times as long."""
LOST = "one of this worker's GPUs (DARKROOM_GPUS) is lost; the job can be retried on another worker"


class Crew:
    """`profile.gpus` - 1 follower processes, started at once; they end with this process, also when it is killed.

    Raises ValueError where the machine has fewer GPUs. Once a follower is lost every use raises GpuFault, as none of
    the others can leave the forward that it was in. Used on the torch thread only.
    """

    def __init__(self, profile: Profile) -> None:
        present = torch.cuda.device_count()
        if profile.device == "cuda" and profile.gpus > present:
            raise ValueError(f"DARKROOM_GPUS is {profile.gpus}, and this machine has {present}")
        self._profile, self._device = profile, torch.device(profile.device)
        self._numbers, self._lost = count(), False
        self._store: Any = None
        spawn = multiprocessing.get_context("spawn")
        pipes = [spawn.Pipe() for _ in range(1, profile.gpus)]
        self._orders = [ours for ours, _ in pipes]
        self.processes = [
            spawn.Process(target=follow, args=(theirs, rank, profile.gpus, profile, os.getpid()), daemon=True)
            for rank, (_, theirs) in enumerate(pipes, 1)
        ]
        for process, (_, theirs) in zip(self.processes, pipes, strict=True):
            process.start()
            theirs.close()

    def load(self, folder: Path) -> Followers:
        """Have the followers load this checkpoint's transformer, beside whoever loads it here.

        Raises ModelNotReady where its attention heads cannot be shared evenly.
        """
        check_heads(folder, self._profile.gpus)
        number = next(self._numbers)
        self.tell(number, Load(folder))
        return Followers(self, number)

    def lead(self, number: int, transformer: Any) -> None:
        """Wait until the followers have loaded; from then on every forward of `transformer` is shared."""
        with self._together():
            for orders, process in zip(self._orders, self.processes, strict=True):
                if process.sentinel in wait([orders, process.sentinel]) or orders.recv_bytes() != b"loaded":
                    raise EOFError("a follower died while it loaded the model")
            first = self._store is None
            store = self._store = self._store or open_store(self._profile.gpus)
            self.tell(number, Spread(store.port))
            if first:
                join(0, self._profile.gpus, store, self._device)
            spread(transformer, self._device)

    @contextmanager
    def step(self, number: int, run: Run) -> Iterator[None]:
        """Inside the block, this forward of this process, which the followers run with it."""
        self.tell(number, run)
        with self._together():
            yield
            self._finish()

    def tell(self, number: int, order: Order) -> None:
        """Send an order to every follower. Raises GpuFault where one is gone."""
        if self._lost or not all(process.is_alive() for process in self.processes):
            self._give_up()
            raise GpuFault(LOST)
        message = pickle.dumps((number, order))
        with self._together():
            for orders in self._orders:
                orders.send_bytes(message)

    def tell_if_whole(self, number: int, order: Order) -> None:
        """The same where it does not matter whether the crew is lost."""
        if not self._lost:
            with suppress(GpuFault):
                self.tell(number, order)

    def close(self) -> None:
        """End the followers; the crew cannot be used afterwards."""
        joined = self._store is not None and not self._lost
        self._give_up()
        if joined:
            dist.destroy_process_group()

    def _finish(self) -> None:
        """Wait for the GPU. A follower that has died would keep it, and whoever waits for it in CUDA, for ever."""
        if self._device.type != "cuda":
            return  # gloo notices by itself
        done = torch.cuda.Event()
        done.record()
        while not done.query():
            if not all(process.is_alive() for process in self.processes):
                raise EOFError("a follower died in the middle of a forward")
            time.sleep(POLL_SECONDS)

    @contextmanager
    def _together(self) -> Iterator[None]:
        """What fails here on one side leaves the other waiting: it ends the crew, and this worker with it."""
        whole = False
        try:
            yield
            whole = True
        except (RuntimeError, MemoryError, OSError, EOFError) as error:
            if is_out_of_memory(error):
                small = OutOfMemory("this job does not fit the devices' memory; ask for a smaller size or fewer images")
                small.refresh_worker = True  # type: ignore[misc]
                raise small from error
            raise GpuFault(LOST) from error
        finally:
            if not whole:
                self._give_up()

    def _give_up(self) -> None:
        if not self._lost:
            log.info("followers end; exit codes so far: %s", [process.exitcode for process in self.processes])
        self._lost = True
        for orders, process in zip(self._orders, self.processes, strict=True):
            orders.close()
            process.kill()
            process.join()


def check_heads(folder: Path, gpus: int) -> None:
    """Raise ModelNotReady where the attention heads of a checkpoint cannot be shared evenly by so many GPUs."""
    heads = json.loads((folder / "transformer" / "config.json").read_text())["num_attention_heads"]
    if heads % gpus:
        raise ModelNotReady(f"DARKROOM_GPUS={gpus} does not divide this model's {heads} attention heads")


class Followers:
    """One transformer's followers; `lead` makes them its attribute `followers`."""

    def __init__(self, crew: Crew, number: int) -> None:
        self._crew, self._number = crew, number

    def lead(self, transformer: Any) -> None:
        """Wait until they have loaded; from then on every forward of `transformer` is shared with them."""
        self._crew.lead(self._number, transformer)
        transformer.followers = self

    @contextmanager
    def step(self, tokens: Tensor, cells: int, text: Tensor, timestep: Tensor, grids: Grids) -> Iterator[None]:
        """Inside the block, one forward with these arguments of `Forward`. Raises GpuFault, or OutOfMemory."""
        assert not (torch.is_grad_enabled() and (tokens.requires_grad or text.requires_grad)), "none goes back there"
        with self._crew.step(self._number, Run(tokens.cpu(), cells, text.cpu(), timestep, grids)):
            yield

    def announce(self, timesteps: Sequence[float]) -> None:
        """The timesteps of the next job."""
        self._crew.tell(self._number, Announce(tuple(timesteps)))

    def check(self, lora: Lora) -> None:
        """Raises InvalidInput for a LoRA on the last projection, at which diffusers gathers the shares."""
        if any("proj_out" in name for name in lora.weights):
            raise InvalidInput(
                f"{lora.field} changes proj_out, which a worker with several GPUs (DARKROOM_GPUS) cannot",
                field=lora.field,
            )

    def wear(self, loras: Sequence[Lora]) -> None:
        """Put LoRAs on, too, which fit since they do here."""
        self._crew.tell(self._number, Wear(tuple(loras)))

    def undress(self) -> None:
        """Take them off."""
        self._crew.tell_if_whole(self._number, Wear(()))

    def leave(self) -> None:
        """The transformer is let go."""
        self._crew.tell_if_whole(self._number, Drop())
