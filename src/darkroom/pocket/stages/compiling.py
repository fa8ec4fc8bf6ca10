"""Compiled stages, where there is what compiles them."""

import shutil
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch._dynamo import config as tracing
from torch._inductor import config

# Forms of one function: with gradients or without, pictures or words alone, two numbers of threads. At torch's own
# limit of 8 it goes on uncompiled, with only a line in the log.
_FORMS = 32

Given = ParamSpec("Given")
Found = TypeVar("Found")


def compiled(
    step: Callable[Given, Found], device: torch.device, dynamic: bool | None = None
) -> Callable[Given, Found]:
    """`torch.compile` of `step`. Raises ValueError, which names the option, where the CPU's compiler is missing."""
    if device.type == "cpu" and not any(map(shutil.which, filter(None, config.cpp.cxx))):
        raise ValueError("there is no C++ compiler to compile the training with: install g++, or give --no-compile")
    tracing.recompile_limit = max(_FORMS, tracing.recompile_limit)
    return torch.compile(step, dynamic=dynamic)
