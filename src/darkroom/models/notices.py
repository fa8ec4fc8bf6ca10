"""Notices of libraries that say nothing to whoever runs a worker, kept out of its log.

torchao registers two of its own enums in a way that torch will drop; diffusers cannot import torchao's former tensor
classes, which only its own loader of torchao checkpoints would ask for, and calls the choice of an attention kernel
experimental. Each says so in every process.
"""

from __future__ import annotations

import logging
from functools import partial

EXPECTED = {
    "diffusers.quantizers.torchao.torchao_quantizer": "Unable to import `torchao` Tensor objects",
    "diffusers.models.modeling_utils": "Attention backends are an experimental feature",
}
"""Logger -> how the message begins that it is not to pass on."""
TORCH = "torch.utils._pytree"


def silence() -> None:
    """Drop these notices and no other; must run before torchao and diffusers are imported."""
    logging.getLogger(TORCH).addFilter(_no_torchao_enums)
    for name, beginning in EXPECTED.items():
        logging.getLogger(name).addFilter(partial(_begins_otherwise, beginning))


def _no_torchao_enums(record: logging.LogRecord) -> bool:
    about = record.args[0] if isinstance(record.args, tuple) and record.args else None
    is_torchaos = isinstance(about, type) and about.__module__.startswith("torchao.")
    return not (is_torchaos and "is an Enum subclass" in str(record.msg))


def _begins_otherwise(beginning: str, record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(beginning)
