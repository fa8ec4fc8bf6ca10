"""A training between its epochs: what an earlier try of the job has left, and how one fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from darkroom.errors import FetchFailed, InvalidInput, OutOfMemory
from darkroom.workers.recipe import Desk

T = TypeVar("T")


def earlier_checkpoint(desk: Desk, name: str, read: Callable[[bytes, str], T]) -> tuple[T, dict[str, Any]] | None:
    """The file `name` of an earlier try of this job, and the record stored with it; None where there is none.

    One that cannot be read is none, and a warning says so.
    """
    stored = next((stored for stored in desk.earlier if stored.entry.get("name") == name), None)
    if stored is None:
        return None
    try:
        return read(desk.read_stored(name), name), stored.record
    except (KeyError, FetchFailed, InvalidInput):
        desk.warn("the checkpoint of an earlier try of this job cannot be read; the training begins anew")
        return None


def goes_on(desk: Desk, epoch: int, same_model: bool) -> bool:
    """Whether what an earlier try left after `epoch` can be gone on with; a warning says which."""
    desk.warn(
        f"went on after epoch {epoch}, which an earlier try of this job had stored"
        if same_model
        else "an earlier try of this job ran with another model; the training begins anew"
    )
    return same_model


def diverged(stored: int) -> InvalidInput:
    """The error of a training whose loss or weights are not finite in the epoch after `stored` ones."""
    return InvalidInput(
        f"lr: loss or weights are not finite in epoch {stored + 1}; take a smaller one; {kept(stored)}", field="lr"
    )


def too_large(batch_size: int, stored: int) -> OutOfMemory:
    """The error of a training that the device has no memory for, in the epoch after `stored` ones."""
    return OutOfMemory(
        f"the training does not fit the device's memory at batch_size {batch_size}; take a smaller one and more "
        f"gradient_accumulation; {kept(stored)}",
        field="batch_size",
    )


def kept(stored: int) -> str:
    """Which checkpoint a training that failed has left."""
    return f"the checkpoint of epoch {stored} is kept" if stored else "no epoch was finished"
