"""One edit with the model's own sight and with a bridge from Qwen3-VL, side by side, with the attention over levels.

    python examples/bridge_end_to_end.py [bridge.safetensors] [picture] [prompt] [result.png]

Without a bridge, the profile's own if it ships one; else an untrained one, which changes nothing. Runs on the pocket
models; DARKROOM_PROFILE, DARKROOM_VISION_MODEL and DARKROOM_EDIT_MODEL choose others.
"""

import sys
from pathlib import Path

from darkroom.jobs import Limits
from darkroom.media import decode_image, labelled_grid, to_uint8
from darkroom.media.heat import heat_map
from darkroom.models.bridge import Bridge, from_bytes, untrained
from darkroom.models.enhanced import EnhancedEditor, Sampling, form_for
from darkroom.models.shelf import Shelf, read_card
from darkroom.models.specs import resolve
from darkroom.models.vision_report import level_names
from darkroom.settings import Settings

PHOTO = Path(__file__).parent / "photo.jpg"


def main(weights: Path | None, picture: Path, prompt: str, result: Path) -> None:
    """Make the sheet and say what the bridge did."""
    shelf = Shelf(resolve(Settings(), read_card()))
    eyes, editor = shelf.vision(), shelf.editor("edit")
    weights = weights or shelf.spec("vision").bridge
    bridge: Bridge = (
        from_bytes(weights.read_bytes()) if weights and weights.is_file() else untrained(form_for(editor, eyes))
    )
    enhanced = EnhancedEditor(editor, bridge)
    photo = decode_image(picture.read_bytes(), str(picture), Limits()).image
    before, after, pair = enhanced.compare(
        [photo], enhanced.sights(eyes, [photo]), prompt, Sampling(true_cfg_scale=1.0), [1]
    )
    results = [to_uint8(before[0]), to_uint8(after[0])]
    seen = photo.resize(results[0].size)
    sheet, labels = [seen, *results], ["seen", "baseline", "enhanced"]
    if pair.attention[0] is not None:
        weights_of_levels = pair.attention[0].float().cpu().numpy()
        for number, name in enumerate(level_names(weights_of_levels.shape[-1])):
            sheet.append(heat_map(seen, weights_of_levels[..., number]))
            labels.append(name)
    labelled_grid([sheet], column_labels=labels).save(result)
    print(f"{'untrained' if bridge.is_identity else 'trained'} bridge, {pair.enhanced.visual.bridged} tokens bridged")
    print(f"largest difference of the two pictures: {float((before - after).abs().max()):.4f}")
    print(result)


if __name__ == "__main__":
    given = dict(enumerate(sys.argv[1:]))
    main(
        Path(given[0]) if given.get(0) else None,
        Path(given.get(1) or PHOTO),
        given.get(2) or "make it sepia",
        Path(given.get(3) or "bridge_end_to_end.png"),
    )
