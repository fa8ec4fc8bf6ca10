"""Which of the engine's exact levers are pulled: what makes a forward cheaper and leaves its mathematics alone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Levers:
    """Each may be pulled alone; without any the engine runs diffusers' own modules as they are.

    fold: modulation from a table per schedule; bit-equal for one image.
    lean: the transformer's forward without masks, index lists and unused rows; equal to rounding, for one image in
        float32 mostly bit for bit, since a matrix product may add in another order for another number of rows.
    conv2d: the VAE as 2-D convolutions for one frame; equal to rounding.
    compile: the repeated block compiled; equal to rounding.
    """

    fold: bool = False
    lean: bool = False
    conv2d: bool = False
    compile: bool = False

    @classmethod
    def none(cls) -> Levers:
        """diffusers' own modules."""
        return cls()

    @classmethod
    def exact(cls) -> Levers:
        """Those whose result is bit for bit diffusers' on any device, with its modules left as they are."""
        return cls()

    @classmethod
    def every(cls, device: str) -> Levers:
        """All that help on this kind of device ("cpu" or "cuda"); compiling for the CPU costs more than it saves."""
        return cls(fold=True, lean=True, conv2d=True, compile=device == "cuda")
