"""What of a job's texts is not read as it stands."""

from __future__ import annotations

from collections.abc import Iterable

from darkroom.models.editor import Editor
from darkroom.models.sight import plain
from darkroom.workers.recipe import Desk

_MOST_WORDS = 8


def warn_of_unread(editor: Editor, desk: Desk, texts: Iterable[str | None], negative_prompt: str | None) -> None:
    """Say in the reply which words of `texts` a miniature was never taught, and that control tokens are blanks."""
    given = [text for text in texts if text]
    unknown = list(dict.fromkeys(word for text in given for word in editor.unknown_words(text)))
    if unknown:
        words = ", ".join(unknown[:_MOST_WORDS])
        desk.warn(f"the pocket model knows only its small world (docs/pocket.md) and was not taught: {words}")
    if any(plain(editor.processor.tokenizer, text) != text for text in [*given, negative_prompt or ""]):
        desk.warn("control tokens such as <|im_end|> in a prompt are read as blanks")
