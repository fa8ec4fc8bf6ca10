"""What an instruction's words name, in the order of speaking: the answers that cells are taught to give for them."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from darkroom.pocket.world.colours import NAMES
from darkroom.pocket.world.phrases import DIRECTIONS
from darkroom.pocket.world.shapes import SHAPES

ANSWERS: Mapping[str, tuple[str, ...]] = {
    "shape": SHAPES,
    "second shape": SHAPES,
    "colour": NAMES,
    "direction": tuple(DIRECTIONS),
}
"""What is asked of an instruction, and the answers."""
QUESTIONS = tuple(ANSWERS)
UNNAMED = -1

_NO_NAMES = re.compile(r'"[^"]*"|black and white')


def named_words(instruction: str) -> Tensor:
    """[questions], int64: the number of each answer among `ANSWERS`, UNNAMED where the words have none.

    What stands in quotation marks is to be written and names nothing; "black and white" is a tone, no colour.
    """
    words = re.findall(r"[a-z]+", _NO_NAMES.sub(" ", instruction.lower()))
    shapes, colours, directions = ([w for w in words if w in known] for known in (SHAPES, NAMES, DIRECTIONS))
    found = {"shape": shapes, "second shape": shapes[1:], "colour": colours, "direction": directions}
    return torch.tensor([_number(names, found[question]) for question, names in ANSWERS.items()])


def _number(names: tuple[str, ...], found: list[str]) -> int:
    return names.index(found[0]) if found else UNNAMED
