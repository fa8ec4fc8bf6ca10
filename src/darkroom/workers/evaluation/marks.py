"""Edits that a mark decides which the VAE never gets: only what the vision encoders see can tell what to do."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from darkroom.pocket.judging.rules import is_right
from darkroom.pocket.world.edits import Edit, draw_edit
from darkroom.technique.likeness import Pixels
from darkroom.workers.evaluation.case import Case, Ruler, Scores, Shot, Suite

RULERS = (Ruler("right", "share that did what the mark said, and nothing else, by the pocket world's rules"),)
SEED = 910_005
KINDS = ("dot", "dot background", "dot move")


def marks(cases: int) -> Suite:
    """The kinds by turns, in scenes of their own. Pictures are 128 × 128, with sights of 256 × 256 pixels."""
    drawn = tuple(_case(np.random.default_rng((SEED, number)), KINDS[number % len(KINDS)]) for number in range(cases))
    return Suite("marks", "Edits that a small mark decides", RULERS, drawn)


def _case(rng: np.random.Generator, kind: str) -> Case:
    edit = draw_edit(rng, kind)
    while is_right(edit, edit.source):  # nothing was to be done
        edit = draw_edit(rng, kind)
    return Case((Shot(edit.source, edit.instruction, edit.target, edit.sight),), partial(judge, edit), edit.kind)


def judge(edit: Edit, results: Sequence[Pixels]) -> Scores:
    """1 or 0."""
    return {"right": float(is_right(edit, results[0]))}
