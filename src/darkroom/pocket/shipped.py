"""The weights that ship with Darkroom: where they lie, whether they are whole, and how they are put there."""

import json
import shutil
from pathlib import Path

from darkroom.errors import ModelNotReady
from darkroom.models import weights
from darkroom.models.vocabulary import Vocabulary
from darkroom.models.weights import CHECKSUMS, CHECKSUMS_VERSION, sha256
from darkroom.pocket.folders import is_family, replaced
from darkroom.pocket.world.lettering import LONGEST
from darkroom.pocket.world.vocabulary import caption_words, words

WEIGHTS = Path(__file__).parent / "weights"
EDIT = WEIGHTS / "edit"

# The kinds of edit (darkroom.pocket.world.edits.KINDS) that the shipped weights can be asked for.
TAUGHT = (
    "recolour",
    "background",
    "remove",
    "move",
    "bigger",
    "smaller",
    "turn",
    "add",
    "follow",
    "black and white",
    "sepia",
    "brighter",
    "darker",
    "inverted",
    "hair",
    "glasses",
    "hat",
    "write",
)

# They have met these as well: dots they read where these are large, or through the bridge; of the others they make
# smudges too often.
MET = (
    *TAUGHT,
    *("edges", "follow people", "reword"),
    *("dot", "dot background", "dot move"),
)


def vocabulary() -> Vocabulary:
    """What the shipped family was taught to read, in edits and in captions."""
    return Vocabulary(frozenset({*words(MET), *caption_words()}), LONGEST if "write" in MET else 0)


def verify(folder: Path = EDIT) -> None:
    """As the shelf checks a family when it loads one; here the list of checksums itself must be there too.

    Raises ModelNotReady that names the first file that is missing, damaged or of another version.
    """
    if not (folder / CHECKSUMS).is_file():
        raise ModelNotReady(
            f"{folder.name}/{CHECKSUMS} is missing; restore it from the repository, or train the weights and put them"
            " in place with `darkroom pocket train --install`"
        )
    weights.verify(folder)


def check(folder: Path) -> None:
    """Whether a family or another trained part can be read: by its checksums where it has some, else by its lengths.

    The shipped ones must have theirs. Raises ModelNotReady that names the file.
    """
    if folder.parent == WEIGHTS or (folder / CHECKSUMS).is_file():
        verify(folder)
    else:
        weights.check_lengths(folder)


def seal(folder: Path) -> None:
    """Write the checksums of every file of the family in `folder`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CHECKSUMS)
    sums = {path.relative_to(folder).as_posix(): sha256(path) for path in files}
    (folder / CHECKSUMS).write_text(json.dumps({"version": CHECKSUMS_VERSION, "files": sums}, indent=2) + "\n")


def install(family: Path, folder: Path = EDIT) -> None:
    """Put a trained family, or another trained part, in the place of the shipped one, sealed.

    Who is killed meanwhile loses nothing (`folders.replaced`).
    """
    with replaced(folder) as unfinished:
        shutil.copytree(family, unfinished, dirs_exist_ok=True)
        unfinished.chmod(0o755)  # it may come from a temporary folder, which nobody else can read
        for path in unfinished.rglob("*.safetensors"):
            path.chmod(0o644)
        if is_family(unfinished):
            vocabulary().write(unfinished)
        seal(unfinished)
