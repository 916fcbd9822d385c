"""A photograph becomes a canvas: the square round the sign, with a margin, at one size for all scenes."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from physadv.errors import UserError

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Photograph:
    """One photograph of a sign, still on disk, and what is known of it.

    box: xyxy px, edges (an inclusive pixel range a..b is a, b + 1); None: the sign fills the photograph.
    quad: the face's corners in px, x and y of TL TR BR BL; given instead of a box where the sign is seen at an angle.
    """

    path: Path
    label: str
    group: str
    name: str
    box: Box | None = None
    quad: tuple[float, ...] | None = None


class Canvas(NamedTuple):
    """Photograph px (x, y) lies at canvas px ((x - left_px) * scale, (y - top_px) * scale)."""

    pixels: np.ndarray
    left_px: float
    top_px: float
    scale: float

    @property
    def matrix(self) -> list[list[float]]:
        """Photograph px -> canvas px."""
        scale = self.scale
        return [[scale, 0.0, -self.left_px * scale], [0.0, scale, -self.top_px * scale], [0.0, 0.0, 1.0]]


def crop(pixels: np.ndarray, box: Box, *, canvas_px: int, margin: float) -> Canvas:
    """The square of side max(box) * (1 + 2 * margin) centred on `box`, resampled (antialiased bicubic) to `canvas_px`.

    What lies outside the photograph is its mirror image, or its last pixels where there is too little to mirror.
    """
    x1, y1, x2, y2 = box
    side = max(x2 - x1, y2 - y1) * (1 + 2 * margin)
    left, top = (x1 + x2 - side) / 2, (y1 + y2 - side) / 2
    window = _window(pixels, floor(left), floor(top), ceil(left + side), ceil(top + side))
    x, y = left - floor(left), top - floor(top)
    square = (x, y, min(x + side, window.shape[1]), min(y + side, window.shape[0]))
    resized = Image.fromarray(window).resize((canvas_px, canvas_px), Image.Resampling.BICUBIC, box=square)
    return Canvas(np.asarray(resized), left, top, canvas_px / side)


def spread(groups: Sequence[str], limit: int) -> list[int]:
    """`limit` rows, in row order, for which the groups take turns: one of each, then a second of each, ...

    In the last turn, where not all have one left to give, those that do are evenly spaced.
    """
    turns: dict[str, int] = {}
    rounds: dict[int, list[int]] = {}
    for row, group in enumerate(groups):
        turns[group] = turns.get(group, -1) + 1
        rounds.setdefault(turns[group], []).append(row)
    picked: list[int] = []
    for _, rows in sorted(rounds.items()):
        count = min(limit - len(picked), len(rows))
        picked += [rows[place * len(rows) // count] for place in range(count)]
    return sorted(picked)


def _window(pixels: np.ndarray, x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
    """Integer window x1..x2, y1..y2 of an (h, w, 3) photograph, filled where it overhangs."""
    height, width = pixels.shape[:2]
    inside = pixels[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)]
    if not inside.size:
        place = f"({x1}, {y1})-({x2}, {y2})"
        raise UserError(f"The sign's place {place} lies outside the {width}x{height} photograph: give px of this file.")
    vertical, horizontal = (max(-y1, 0), max(y2 - height, 0)), (max(-x1, 0), max(x2 - width, 0))
    mirrors = max(vertical) <= inside.shape[0] and max(horizontal) <= inside.shape[1]
    fill = cv2.BORDER_REFLECT if mirrors else cv2.BORDER_REPLICATE
    return cv2.copyMakeBorder(inside, *vertical, *horizontal, fill)
