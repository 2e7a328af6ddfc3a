"""Small pictures for tests."""

import base64
import io

import numpy as np
from PIL import Image


def png(level=255, size=(40, 30), noise=None):
    pixels = np.full((size[1], size[0], 3), level, dtype=np.uint8)
    if noise is not None:
        pixels[:] = noise
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode()
