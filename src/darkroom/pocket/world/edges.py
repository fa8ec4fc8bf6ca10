"""The edge map of a drawn picture: the one that video_edit takes and computes, in pixels."""

import cv2
import numpy as np
from PIL import Image

from darkroom.media import edges
from darkroom.pocket.world.colours import Pixels


def edge_map(image: Pixels, thickness: int = 1) -> Pixels:
    """[H, W, 3] in {0, 1}: the edges of `image` [H, W, 3] in [0, 1] as `media.edges` finds them, `thickness` wide."""
    lines = np.asarray(edges.edge_map(Image.fromarray(np.round(image * 255).astype(np.uint8))))
    if thickness > 1:
        lines = cv2.dilate(lines, np.ones((thickness, thickness), np.uint8))
    return (lines > 0).astype(np.float32)
