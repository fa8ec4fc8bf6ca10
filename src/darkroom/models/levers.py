"""Which of the engine's exact levers are pulled: what makes a forward cheaper and leaves its mathematics alone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Levers:
    """Each may be pulled alone; without any the engine runs diffusers' own modules as they are.

    fold: modulation from a table per schedule, bit-equal in float32 on the CPU.
    lean: the transformer's forward without masks, index lists and unused outputs, bit-equal in float32 on the CPU.
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
    def exact(cls, device: str) -> Levers:
        """Those that change no bit on this kind of device ("cpu" or "cuda")."""
        # A GPU's matrix product picks its kernel, and with it the order of additions, by the number of rows.
        return cls.none()

    @classmethod
    def every(cls, device: str) -> Levers:
        """All that help on this kind of device. Compiling on the CPU costs more than it saves."""
        return cls(conv2d=True)
