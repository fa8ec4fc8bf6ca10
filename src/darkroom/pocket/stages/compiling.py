"""Compiled stages, where there is what compiles them."""

import shutil
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch._inductor import config

Given = ParamSpec("Given")
Found = TypeVar("Found")


def compiled(
    step: Callable[Given, Found], device: torch.device, dynamic: bool | None = None
) -> Callable[Given, Found]:
    """`torch.compile` of `step`. Raises ValueError, which names the option, where the CPU's compiler is missing."""
    if device.type == "cpu" and not any(map(shutil.which, filter(None, config.cpp.cxx))):
        raise ValueError("there is no C++ compiler to compile the training with: install g++, or give --no-compile")
    return torch.compile(step, dynamic=dynamic)
