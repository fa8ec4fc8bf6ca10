"""The edge map of a picture, as video_edit takes it: bright lines on black."""

import cv2
import numpy as np

from darkroom.pocket.world.colours import Pixels


def edge_map(image: Pixels, low: int = 60, high: int = 140, thickness: int = 1) -> Pixels:
    """[H, W, 3] in {0, 1}: Canny's edges of `image` [H, W, 3] in [0, 1], after a light blur; lines of `thickness`."""
    smooth = cv2.GaussianBlur(np.round(image * 255).astype(np.uint8), (0, 0), 0.8)
    lines = cv2.Canny(smooth, low, high)
    if thickness > 1:
        lines = cv2.dilate(lines, np.ones((thickness, thickness), np.uint8))
    return np.repeat((lines > 0).astype(np.float32)[..., None], 3, axis=-1)
