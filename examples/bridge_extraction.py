"""What Qwen3-VL and Qwen2.5-VL see of a picture, side by side, and what a bridge between them would cost.

    python examples/bridge_extraction.py [picture]

Runs on the pocket models; DARKROOM_PROFILE, DARKROOM_VISION_MODEL and DARKROOM_EDIT_MODEL choose others.
"""

import sys
from pathlib import Path

from darkroom.jobs import Limits
from darkroom.media import decode_image
from darkroom.models.shelf import Shelf, read_card
from darkroom.models.specs import resolve
from darkroom.models.vision_report import extraction
from darkroom.settings import Settings

PHOTO = Path(__file__).parent / "photo.jpg"


def main(picture: Path) -> None:
    """Print both models' features in numbers."""
    photo = decode_image(picture.read_bytes(), str(picture), Limits()).image
    report = extraction(Shelf(resolve(Settings(), read_card())), photo)
    for side in ("extractor", "baseline"):
        found = report[side]
        print(f"{side}: {found['tokens']} tokens on a grid of {found['grid'][0]} × {found['grid'][1]}")
        for name, numbers in found["features"].items():
            print(f"  {name:13}  {numbers['shape']}  mean {numbers['mean']:+.3f}  std {numbers['std']:.3f}")
    print(f"same token count: {report['same_token_count']}, ratio of widths: {report['width_ratio']}")
    print(f"a bridge between them: {report['bridge']['parameters']:,} parameters, {report['bridge']['memory_mib']} MiB")
    for stage, seconds in report["seconds"].items():
        print(f"  {stage}: {seconds:.3f} s")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else PHOTO)
