"""Figures are compared as pictures: decoded PNGs of one size whose grey levels differ by at most 2/255 (root mean square)."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np

TOLERANCE = 2.0


def pngs(outputs: list[dict[str, Any]]) -> list[str]:
    """The PNG figures among the outputs of a cell, in order."""
    return [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]


def difference(stored: str, fresh: str) -> float:
    """Root mean square difference of two base64 PNGs in grey levels of 255; infinite if their sizes differ."""
    first, second = (_pixels(png) for png in (stored, fresh))
    if first.shape != second.shape:
        return float("inf")
    return float(np.sqrt(np.mean((first - second) ** 2)))


def complaint(stored: list[dict[str, Any]], fresh: list[dict[str, Any]]) -> str | None:
    """What is wrong with the fresh figures of a cell, or None."""
    kinds = {mime for output in stored + fresh for mime in output.get("data", {})} - {"text/plain", "image/png"}
    if kinds:
        return f"outputs of a chapter are text and PNG figures, not {', '.join(sorted(kinds))}"
    before, after = pngs(stored), pngs(fresh)
    if len(before) != len(after):
        return f"{len(before)} figure(s) stored, {len(after)} drawn"
    worst = max((difference(a, b) for a, b in zip(before, after, strict=True)), default=0.0)
    return f"a figure differs by {worst:.2f} of 255 (root mean square, allowed {TOLERANCE:g})" if worst > TOLERANCE else None


def compact(png: str) -> str:
    """The same picture with a palette of 256 colours, a third of the size; left alone if it has one or would look different."""
    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(png))) as image:
        if image.mode == "P":
            return png
        small = image.convert("RGB").quantize(256, method=Image.Quantize.MEDIANCUT, kmeans=1, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    small.save(buffer, format="png", optimize=True)
    smaller = base64.b64encode(buffer.getvalue()).decode()
    return smaller if difference(png, smaller) < TOLERANCE / 2 else png


def _pixels(png: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(png))) as image:
        return np.asarray(image.convert("RGB"), dtype=np.float64)
