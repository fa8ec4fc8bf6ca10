"""Whether gradients can go back through this worker's transformer: asked before anything is computed for them."""

from __future__ import annotations

from darkroom.errors import InvalidInput
from darkroom.models.precision import WITHOUT_GRADIENTS
from darkroom.workers.recipe import Desk


def need_gradients(desk: Desk, field: str, instead: str) -> None:
    """Raises InvalidInput about `field`, with `instead` as the way out, where this worker's transformer passes none."""
    profile = desk.shelf.profile
    if profile.gpus > 1:
        where = "of a worker with several GPUs (DARKROOM_GPUS)"
    elif profile.precision in WITHOUT_GRADIENTS:
        where = f"in {profile.precision} (DARKROOM_PRECISION: bf16 and fp8_storage pass them)"
    else:
        return
    raise InvalidInput(f"{field}: no gradients go through the transformer {where}; {instead}", field=field)
