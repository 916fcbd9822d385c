"""Where something is printed: masks in face coordinates, and their rasters.

A mask is float32 (rows, columns) in [0, 1] over the whole face, 1 where something is printed.
"""

import math
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from physadv.errors import UserError
from physadv.files import open_image

Mask = Float[np.ndarray, "_rows _columns"]
Shares = tuple[float, float, float, float]

FINE_PX = 1024
"""The side of a mask made here. Artwork rasters are area averages of it."""

MASKS: dict[str, tuple[Shares, ...]] = {
    "two-bars": ((180 / 1024, 180 / 1024, 820 / 1024, 320 / 1024), (180 / 1024, 716 / 1024, 820 / 1024, 856 / 1024)),
    "rp2": ((0.50, 0.22, 0.61, 0.30), (0.38, 0.42, 0.65, 0.54), (0.18, 0.54, 0.30, 0.62), (0.46, 0.73, 0.58, 0.85)),
}
"""xyxy as shares of the face: bars above and below the lettering; rectangles like those of Eykholt et al. 2018."""

_ASPECT_TOLERANCE = 0.02
_RING_PX = 512
_BISECTIONS = 30


def built_in_mask(name: str) -> Mask:
    mask = np.zeros((FINE_PX, FINE_PX), np.float32)
    for box in MASKS[name]:
        left, top, right, bottom = (round(edge * FINE_PX) for edge in box)
        mask[top:bottom, left:right] = 1
    return mask


def file_mask(path: Path, *, face_width_mm: float, face_height_mm: float) -> Mask:
    """White = sticker. UserError: of another shape than the face, or empty."""
    levels = np.asarray(open_image(path, mode="RGBA")).astype(np.float32) / 255
    mask = (levels[..., :3].mean(-1) * levels[..., 3] > 0.5).astype(np.float32)  # what is transparent is no sticker
    rows, columns = mask.shape
    if abs(math.log(columns / rows * face_height_mm / face_width_mm)) > _ASPECT_TOLERANCE:
        raise UserError(
            f"{path} is a mask of another size: {columns} x {rows} px, but the face is "
            f"{face_width_mm:g} x {face_height_mm:g} mm; draw it over the whole face, in the face's proportions."
        )
    if not mask.any():
        raise UserError(f"{path} is empty: paint the places of the stickers white.")
    return mask


def ellipse_mask() -> Mask:
    """The ellipse that touches all four sides."""
    axis = (np.arange(FINE_PX) + 0.5) / FINE_PX * 2 - 1
    return (np.hypot(axis[:, None], axis[None]) <= 1).astype(np.float32)


def ring_mask(face_alpha: Mask, *, share: float, face_width_mm: float, face_height_mm: float) -> Mask:
    """An even band along the inside of the outline that covers `share` of the opaque area (distance transform).

    The band's inner edge is one pixel soft, so that its width is not bound to whole pixels.
    """
    longer_mm = max(face_width_mm, face_height_mm)
    square_px = (round(_RING_PX * face_width_mm / longer_mm), round(_RING_PX * face_height_mm / longer_mm))
    opaque = cv2.resize(face_alpha, square_px, interpolation=cv2.INTER_LINEAR) >= 0.5
    framed = np.pad(opaque, 1).astype(np.uint8)  # the raster's edge is an outline too
    distance_px = cv2.distanceTransform(framed, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    narrow_px, wide_px = 0.0, float(distance_px.max()) + 1
    for _ in range(_BISECTIONS):
        width_px = (narrow_px + wide_px) / 2
        too_wide = _band(distance_px, width_px).sum() > share * opaque.sum()
        narrow_px, wide_px = (narrow_px, width_px) if too_wide else (width_px, wide_px)
    return _band(distance_px, narrow_px)


def _band(distance_px: Mask, width_px: float) -> Mask:
    """Pixel centres next to the outline are at distance 1, their outer edge is at 0."""
    return np.where(distance_px > 0, np.clip(width_px + 1 - distance_px, 0, 1), 0).astype(np.float32)


def clip_to_face(mask: Mask, face_alpha: Mask) -> Mask:
    rows, columns = mask.shape
    return mask * (cv2.resize(face_alpha, (columns, rows), interpolation=cv2.INTER_LINEAR) >= 0.5)


def bounding_box(mask: Mask) -> tuple[int, int, int, int]:
    """xyxy in mask pixels of everything above 0."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def raster_size_px(width_mm: float, height_mm: float, *, resolution_px: int) -> tuple[int, int]:
    """Rows and columns: `resolution_px` along the longer side, square pixels; at least 2 x 2, as a picture needs."""
    longer_mm = max(width_mm, height_mm)
    return max(2, round(resolution_px * height_mm / longer_mm)), max(2, round(resolution_px * width_mm / longer_mm))


def coverage(mask: Mask, size_px: tuple[int, int]) -> Float[Tensor, "1 h w"]:
    """The share of each of `size_px` (rows, columns) pixels that the mask covers."""
    repeats = [max(1, math.ceil(4 * wanted / there)) for wanted, there in zip(size_px, mask.shape, strict=True)]
    fine = mask.repeat(repeats[0], axis=0).repeat(repeats[1], axis=1)
    shares = cv2.resize(fine, size_px[::-1], interpolation=cv2.INTER_AREA)
    return torch.from_numpy(shares.clip(0, 1))[None]
