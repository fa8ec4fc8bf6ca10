"""A few notices of libraries are dropped, and no other; tests/worker looks for them in a real log."""

from __future__ import annotations

import enum
import logging

import pytest

from darkroom.models.notices import EXPECTED, TORCH

OF_TORCH = "%s is an Enum subclass and is now natively supported by torch.compile"


def test_only_the_notices_that_are_named_are_dropped(caplog: pytest.LogCaptureFixture) -> None:
    theirs, ours = enum.Enum("Theirs", "A"), enum.Enum("Ours", "A")
    theirs.__module__ = "torchao.quantization"
    logging.getLogger(TORCH).warning(OF_TORCH, theirs)
    for name, beginning in EXPECTED.items():
        logging.getLogger(name).warning(f"{beginning} and more")
    assert not caplog.records
    logging.getLogger(TORCH).warning(OF_TORCH, ours)
    logging.getLogger(TORCH).warning("another warning")
    for name in EXPECTED:
        logging.getLogger(name).warning("another")
    assert len(caplog.records) == 2 + len(EXPECTED)
