"""The edge map of a picture, as video_edit takes it: bright lines on black."""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

CANNY = (60.0, 140.0)
"""Canny's low and high thresholds, in levels of 255, after a blur of 0.8 pixels."""
_BLUR = 0.8


def edge_map(picture: Image.Image) -> Image.Image:
    """RGB: Canny's edges of an RGB picture, white lines one pixel wide on black."""
    smooth = cv2.GaussianBlur(np.asarray(picture.convert("RGB")), (0, 0), _BLUR)
    return Image.fromarray(cv2.Canny(smooth, *CANNY)).convert("RGB")
