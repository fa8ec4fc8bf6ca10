"""Faults of the device, told apart from faults of a job or a file: both reach Python as RuntimeError."""

from __future__ import annotations

import torch

SIGNS = (
    "CUDA error",
    "device-side assert",
    "CUBLAS_STATUS",
    "CUDNN_STATUS",
    "unspecified launch failure",
    "illegal memory access",
    "uncorrectable ECC",
    "NVML",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device or the machine had no memory left; the process can go on."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError)


def is_device_fault(error: BaseException) -> bool:
    """Whether the CUDA context is lost: nothing more can run in this process."""
    if is_out_of_memory(error) or not isinstance(error, RuntimeError):
        return False
    return any(sign in str(error) for sign in SIGNS)


def is_the_devices(error: BaseException) -> bool:
    """Either of the two: not to be mistaken for a bad file or a bad request."""
    return is_out_of_memory(error) or is_device_fault(error)
