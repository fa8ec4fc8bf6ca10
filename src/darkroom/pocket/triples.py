"""Edit triples of the pocket world, for `bridge_train`: half of them decided by a small dot, half by words alone."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL.Image import Image

from darkroom.media.triples import write_triples
from darkroom.pocket.judging.samples import to_picture
from darkroom.pocket.world.edits import draw_edit

DECIDED_BY_DOT = ("dot", "dot background", "dot move")
# What a bridge must leave as it is.
DECIDED_BY_WORDS = ("recolour", "background", "remove", "move", "brighter", "sepia")

Named = tuple[str, str, dict[str, Image]]


def check_kinds(kinds: Sequence[str]) -> None:
    """Raise ValueError that names those of which a triple would not hold what the words mean."""
    for kind in kinds:
        edit = draw_edit(np.random.default_rng(0), kind)
        if len(edit.sources) > 1:
            raise ValueError(f"--kind: {kind} is given {len(edit.sources)} pictures, and a triple has one source")
        if edit.sight is not None and edit.sight_large is None:
            raise ValueError(f"--kind: the small mark of {kind} has no sharper look; take a kind with a dot")


def draw_triples(count: int, seed: int = 0, kinds: Sequence[str] | None = None) -> Iterator[Named]:
    """`count` times (name, instruction, pictures by role); of `kinds` in turn, or by turns decided by dot and words.

    `sight` and `sharp` are given where the vision encoders see more than `source`: the small dot, and a large one.
    Raises ValueError that names the kinds which no triple can hold.
    """
    check_kinds(kinds or ())
    return (_triple(number, seed, kinds) for number in range(count))


def _triple(number: int, seed: int, kinds: Sequence[str] | None) -> Named:
    rng = np.random.default_rng((seed, 21, number))
    group = kinds or (DECIDED_BY_DOT if number % 2 == 0 else DECIDED_BY_WORDS)
    edit = draw_edit(rng, group[number // (1 if kinds else 2) % len(group)])
    pictures = {"source": to_picture(edit.source), "target": to_picture(edit.target)}
    if edit.sight is not None:
        assert edit.sight_large is not None
        pictures |= {"sight": to_picture(edit.sight), "sharp": to_picture(edit.sight_large)}
    else:
        # Nothing hides in it: the sharper look says what the ordinary one does.
        pictures["sharp"] = pictures["source"]
    return f"{number:05d}_{edit.kind.replace(' ', '_')}", edit.instruction, pictures


def write_pocket_triples(path: Path, count: int, seed: int = 0, kinds: Sequence[str] | None = None) -> int:
    """Write them as a zip that `bridge_train` takes; returns how many. Raises as `draw_triples`, before it writes."""
    triples = draw_triples(count, seed, kinds)
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_triples(path, triples)
