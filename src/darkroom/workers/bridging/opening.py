"""A job's bridge and its vision model: where they come from, in which form, and whether they belong together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL.Image import Image

from darkroom.errors import InvalidInput
from darkroom.jobs import BridgeCompare, BridgeTrain
from darkroom.jobs.bridge_compare import UNTRAINED
from darkroom.models.bridge import MADE_FOR, Bridge, from_bytes, made_between, untrained
from darkroom.models.checkpoint import unpacked
from darkroom.models.editor import Editor
from darkroom.models.enhanced import sight_grid
from darkroom.models.parts import load_processor
from darkroom.models.shelf import EIGHT_BITS
from darkroom.models.vision import Grid, Sight, VisionExtractor
from darkroom.models.weights import locate
from darkroom.technique.bridge import BridgeConfig
from darkroom.workers.recipe import Desk


@dataclass(frozen=True)
class Extractor:
    """What remains of a vision model once it has looked: its name and its dimensions."""

    hidden_size: int
    levels: int
    reads_prompt: bool


def stored_bridge(key: str | None, desk: Desk) -> Bridge | None:
    """The bridge by the job's key, or the profile's own; None where an untrained one is asked for.

    Raises InvalidInput where the profile has none of its own.
    """
    if key == UNTRAINED:
        return None
    if key is not None:
        return from_bytes(desk.files["bridge"])
    own = desk.shelf.spec("vision").bridge
    if own is None or not own.is_file():
        raise InvalidInput(
            f"bridge: this profile ships none; give the key of one that bridge_train has stored, or '{UNTRAINED}'",
            field="bridge",
        )
    return from_bytes(own.read_bytes())


def open_vision(job: BridgeCompare | BridgeTrain, desk: Desk) -> VisionExtractor:
    """The vision model in the form that the job asks for."""
    language, eight_bit = job.extractor_prompt is not None, job.loading == "8bit"
    return desk.shelf.vision(language=language, eight_bit=eight_bit, visiting=job.loading == "offload")


def vision_told(job: BridgeCompare, desk: Desk) -> dict[str, Any]:
    """Which vision model it was and in which form, for the report."""
    stored = {"precision": EIGHT_BITS} if job.loading == "8bit" else {}
    return {**desk.shelf.identity("vision"), **stored, "loading": job.loading}


def grids(pictures: Sequence[Image], desk: Desk) -> list[Grid]:
    """The editor's own grid of cells for each picture; the editor need not be loaded."""
    spec = desk.shelf.spec("edit")
    image_processor = load_processor(locate(spec, ("processor",)) / "processor").image_processor
    return [sight_grid(picture.size, spec.areas, image_processor) for picture in pictures]


def look(eyes: VisionExtractor, job: BridgeCompare, picture: Image, grid: Grid) -> Sight:
    """What the vision model sees of a picture, on the grid that the job's alignment takes."""
    aligned = grid if job.alignment == "exact" else None
    return eyes.look(picture, grid=aligned, prompt=job.extractor_prompt)


def models_at_hand(desk: Desk) -> dict[str, str]:
    """What a bridge that is trained now is made for; of packed models nothing is known."""
    return made_between(unpacked(desk.shelf.spec("edit"), "text_encoder"), unpacked(desk.shelf.spec("vision")))


def warn_of_strangers(bridge: Bridge, desk: Desk) -> None:
    """Say in the reply where the bridge was trained between other models than the worker's."""
    if not bridge.about.get(MADE_FOR):
        return  # the models' files need not be read
    if strangers := bridge.strangers(models_at_hand(desk)):
        desk.warn(f"the bridge was made for another {' and another '.join(strangers)} than this worker's")


def settled(bridge: Bridge | None, editor: Editor, extractor: Extractor, desk: Desk) -> Bridge:
    """The bridge, checked against both models; an untrained one where there is none.

    Raises InvalidInput for models of other dimensions, and warns of others of the same.
    """
    width = int(editor.text_encoder.config.text_config.hidden_size)
    if bridge is None:
        return untrained(BridgeConfig(width, extractor.hidden_size, extractor.levels))
    bridge.fits(width, extractor.hidden_size, extractor.levels)
    warn_of_strangers(bridge, desk)
    return bridge
