"""What an instruction's words name, in the order of speaking: the answers that cells are taught to give for them."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from darkroom.pocket.world.colours import NAMES
from darkroom.pocket.world.edits import KINDS
from darkroom.pocket.world.phrases import DIRECTIONS
from darkroom.pocket.world.shapes import SHAPES

ANSWERS: Mapping[str, tuple[str, ...]] = {
    "kind": KINDS,
    "shape": SHAPES,
    "second shape": SHAPES,
    "colour": NAMES,
    "direction": tuple(DIRECTIONS),
}
"""What is asked of an instruction, and the answers; one more, after the last, is that it names none."""


def named_words(kind: str, instruction: str) -> Tensor:
    """[questions], int64: the number of each answer among `ANSWERS`.

    What stands in quotation marks is to be written and names nothing.
    """
    words = re.findall(r"[a-z]+", re.sub(r'"[^"]*"', " ", instruction.lower()))
    shapes, colours, directions = ([w for w in words if w in known] for known in (SHAPES, NAMES, DIRECTIONS))
    named = {"kind": [kind], "shape": shapes, "second shape": shapes[1:], "colour": colours, "direction": directions}
    return torch.tensor([_number(names, named[question]) for question, names in ANSWERS.items()])


def _number(names: tuple[str, ...], named: list[str]) -> int:
    return names.index(named[0]) if named and named[0] in names else len(names)
