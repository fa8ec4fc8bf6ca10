"""The weights that ship with Darkroom: where they lie, whether they are whole, and how they are put there."""

import hashlib
import json
import shutil
from pathlib import Path

from darkroom.errors import ModelNotReady

WEIGHTS = Path(__file__).parent / "weights"
EDIT = WEIGHTS / "edit"

# The kinds of edit (darkroom.pocket.world.edits.KINDS) that the shipped weights have been taught.
TAUGHT = ("recolour", "background", "remove", "black and white", "sepia", "brighter", "darker", "inverted")

CHECKSUMS = "checksums.json"
# Raised whenever the classes' configuration or the tokenizer changes, so that older files are not taken for new ones.
VERSION = 1
_REBUILD = "restore it from the repository, or build the family anew with `darkroom pocket train`"


def verify(folder: Path = EDIT) -> None:
    """Check every file of a family against its checksums.

    Raises ModelNotReady that names the first file that is missing, damaged or of another version, and how to
    rebuild it.
    """
    listing = folder / CHECKSUMS
    if not listing.is_file():
        raise ModelNotReady(f"{folder.name}/{CHECKSUMS} is missing; {_REBUILD}")
    try:
        content = json.loads(listing.read_text())
        version, files = content["version"], dict(content["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelNotReady(f"{folder.name}/{CHECKSUMS} is damaged; {_REBUILD}") from error
    if version != VERSION:
        raise ModelNotReady(f"{folder.name}/{CHECKSUMS} is of version {version}, not {VERSION}; {_REBUILD}")
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            raise ModelNotReady(f"{folder.name}/{name} is missing; {_REBUILD}")
        if sha256(path) != expected:
            raise ModelNotReady(f"{folder.name}/{name} is damaged; {_REBUILD}")


def seal(folder: Path) -> None:
    """Write the checksums of every file of the family in `folder`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CHECKSUMS)
    sums = {path.relative_to(folder).as_posix(): sha256(path) for path in files}
    (folder / CHECKSUMS).write_text(json.dumps({"version": VERSION, "files": sums}, indent=2) + "\n")


def install(family: Path, folder: Path = EDIT) -> None:
    """Put a trained family in the place of the shipped one, sealed."""
    if folder.exists():
        shutil.rmtree(folder)
    shutil.copytree(family, folder)
    for path in folder.rglob("*.safetensors"):
        path.chmod(0o644)
    seal(folder)


def sha256(path: Path) -> str:
    """The hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
