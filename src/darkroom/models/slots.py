"""Slot tokens: placeholder words in a prompt, on whose embeddings a residual is laid.

The prompt with its placeholder words is an ordinary prompt: `image_generate` makes the base picture from it.
"""

from __future__ import annotations

from dataclasses import dataclass

from darkroom.errors import InvalidInput
from darkroom.models.editor import Editor
from darkroom.models.generation import PREFIX, PREFIX_TOKENS, SUFFIX, tokens
from darkroom.models.sight import plain

MARK = "~ID~"
"""Where the slots stand in a prompt; without it they stand at its end."""
WORD = "person"
"""The placeholder: one token each with Qwen's tokenizer, and a word that says what kind of thing follows."""


@dataclass(frozen=True)
class Slotted:
    """A prompt around its slots. Control tokens are blanks already, so that texts can be measured."""

    before: str
    after: str

    @classmethod
    def of(cls, prompt: str, editor: Editor, field: str = "base_prompt") -> Slotted:
        """Raises InvalidInput where the mark stands in `prompt` more than once."""
        if prompt.count(MARK) > 1:
            raise InvalidInput(f"{field} holds {MARK} more than once", field=field)
        before, _, after = plain(editor.processor.tokenizer, prompt).partition(MARK)
        return cls(before if MARK in prompt or not before.strip() else f"{before.rstrip()} ", after)

    def text(self, filling: str) -> str:
        """The prompt with `filling` in the slots' place."""
        return f"{self.before}{filling}{self.after}"

    def places(self, editor: Editor, filling: str) -> list[int]:
        """Which rows of the embeddings of `text(filling)` stand for `filling`. Raises PromptTooLong."""
        filling = plain(editor.processor.tokenizer, filling)
        text = self.text(filling)
        tokens(editor, text)
        whole = editor.processor.tokenizer(f"{PREFIX}{text}{SUFFIX}", return_offsets_mapping=True)
        start = len(PREFIX) + len(self.before)
        end = start + len(filling)
        return [
            number - PREFIX_TOKENS
            for number, (first, last) in enumerate(whole["offset_mapping"])
            if first < end and last > start and last > first
        ]


def placeholder(slots: int) -> str:
    """The words of so many slots."""
    return " ".join([WORD] * slots)


def slot_places(prompt: Slotted, editor: Editor, slots: int) -> list[int]:
    """Rows of `prompt.text(placeholder(slots))`'s embeddings that are slots. Raises PromptTooLong, InvalidInput."""
    found = prompt.places(editor, placeholder(slots))
    if len(found) != slots:
        raise InvalidInput(
            f"base_prompt: this model's tokenizer makes {len(found)} tokens of {slots} slot words; set a space on both "
            f"sides of {MARK}",
            field="base_prompt",
        )
    return found
