"""What a miniature was taught to read; models that know language have no such list."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

VOCABULARY = "vocabulary.json"


@dataclass(frozen=True)
class Vocabulary:
    """words: in lower case. quoted: how many capitals in double quotes, a word to write, are read one by one, or 0."""

    words: frozenset[str]
    quoted: int = 0

    def unknown(self, prompt: str) -> list[str]:
        """Words of `prompt` that were never taught, in their order, each once."""
        plain = re.sub(rf'"[A-Z]{{1,{self.quoted}}}"', " ", prompt) if self.quoted else prompt
        words = dict.fromkeys(re.findall(r"[^\W\d_]+", plain.lower()))
        return [word for word in words if word not in self.words]

    def write(self, folder: Path) -> None:
        """To `vocabulary.json` in `folder`."""
        (folder / VOCABULARY).write_text(json.dumps(asdict(self) | {"words": sorted(self.words)}) + "\n")


def read_vocabulary(folder: Path) -> Vocabulary | None:
    """From `vocabulary.json` in a model's folder; None where there is none."""
    listing = folder / VOCABULARY
    if not listing.is_file():
        return None
    told = json.loads(listing.read_text())
    if isinstance(told, list):  # in packs of earlier versions
        return Vocabulary(frozenset(told))
    return Vocabulary(frozenset(told["words"]), told["quoted"])
