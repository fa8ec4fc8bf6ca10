"""A prompt with slots, read once: what all cells of a sweep and all steps of a training share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from darkroom.errors import InputTooLarge
from darkroom.models import generation
from darkroom.models.editor import Editor
from darkroom.models.sight import PromptTooLong
from darkroom.models.slots import MARK, Slotted, placeholder, slot_places
from darkroom.technique.injection import inject
from darkroom.workers.injection.people import NAMELESS


@dataclass(frozen=True)
class Base:
    """The prompt with its placeholder words: embeddings [L, H], the slots' rows, and the gain [H] of the text norm."""

    prompt: Slotted
    text: str
    embeds: Tensor
    places: list[int]
    gain: Tensor

    @property
    def slots(self) -> Tensor:
        """[slots, H], float32: the embeddings that a residual is laid on."""
        return self.embeds[torch.tensor(self.places, device=self.embeds.device)].float()

    def begins_as(self, other: str) -> bool:
        """Whether the prompt `other` has the same words before its slots, so that its slots read the same."""
        before, mark, _ = other.partition(MARK)
        return " ".join(before.split() if mark else other.split()) == " ".join(self.prompt.before.split())

    def injected(self, residual: Tensor, alpha: float) -> Tensor:
        """[L, H]: the prompt with α · r̂ in its slots; α = 0 is the prompt itself."""
        return inject(self.embeds, residual, self.places, alpha, self.gain)


def read_base(editor: Editor, prompt: str, slots: int) -> Base:
    """Raises InputTooLarge, InvalidInput."""
    slotted = Slotted.of(prompt, editor)
    try:
        text, places = slotted.text(placeholder(slots)), slot_places(slotted, editor, slots)
        embeds = generation.embed(editor, text)
    except PromptTooLong as error:
        raise InputTooLarge(f"base_prompt {error}", field="base_prompt") from error
    # The transformer may be out of the device at this moment, and its gain is multiplied with what is inside.
    gain = editor.transformer.txt_norm.weight.detach().to(embeds.device, torch.float32)
    return Base(slotted, text, embeds, places, gain)


def read_caption(editor: Editor, base: Base, caption: str, name: str) -> tuple[Tensor, Tensor]:
    """The prompt with the caption in the slots' place: embeddings [L, H], and those of the caption [M, H].

    name: whose caption it is. Raises InputTooLarge.
    """
    try:
        embeds = generation.embed(editor, base.prompt.text(caption))
        places = base.prompt.places(editor, caption)
    except PromptTooLong as error:
        field = "caption" if name == NAMELESS else "dataset"
        whose = "caption" if name == NAMELESS else f"dataset: the prompt with the caption of {name}"
        raise InputTooLarge(f"{whose} {error}", field=field) from error
    return embeds, embeds[torch.tensor(places, device=embeds.device)].float()


def read_negative(editor: Editor, negative_prompt: str, guidance: float) -> Tensor | None:
    """The negative prompt's embeddings; None where there is no guidance. Raises InputTooLarge."""
    if guidance <= 1:
        return None
    try:
        return generation.embed(editor, negative_prompt)
    except PromptTooLong as error:
        raise InputTooLarge(f"negative_prompt {error}", field="negative_prompt") from error
