"""An artwork taken apart: what is cut out of the paper as one piece, its raster, its outline, and tags on it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int
from PIL import Image

from physadv.errors import UserError
from physadv.printing.marks import outlines_px
from physadv.printing.paper import Box, Colour, Patch, Point, Tag, corner_tags, patches, tag_mm

OPAQUE = 128  # alpha from which paper stays; below it is cut away
CUT_TOLERANCE_MM = 0.3
PIECES_MAX = 24  # more parts than that nobody cuts out one by one: they stay together on one piece
PATCH_MIN_MM = 3.0  # a strip with less room is left out


@dataclass(frozen=True)
class Part:
    """A piece before it is laid out, on the sign: its raster (white where it is not), its box and outlines.

    With tags on it the piece is larger than its raster; tags and colour strip are then on the sign, too.
    """

    image: Image.Image
    opaque: Bool[np.ndarray, "h w"]
    image_mm: Box
    box_mm: Box
    outlines_mm: tuple[Float[np.ndarray, "_ 2"], ...]
    tags: tuple[Tag, ...] = ()
    strip: tuple[Patch, ...] = ()

    def bears_ink(self, box_mm: Box) -> bool:
        """Whether the paper under a box of the sign is needed."""
        left, top, right, bottom = self._pixels_under(box_mm)
        return bool(self.tags) or bool(self.opaque[top:bottom, left:right].any())

    def raster(self, box_mm: Box, dpi: int) -> tuple[Image.Image, Box] | None:
        """The whole pixels under a box of the sign, repeated up to the resolution, and the box that they fill."""
        left, top, right, bottom = self._pixels_under(box_mm)
        if left >= right or top >= bottom:
            return None
        pitch = _pitch(self.image_mm, self.image.size)
        across, down = (math.ceil(mm * dpi / 25.4 - 1e-6) for mm in pitch)
        crop = self.image.crop((left, top, right, bottom))
        image = crop.resize(((right - left) * across, (bottom - top) * down), Image.Resampling.NEAREST)
        filled = np.array((left, top, right, bottom)) * (*pitch, *pitch) + (*self.image_mm[:2], *self.image_mm[:2])
        return image, tuple(filled.tolist())

    def _pixels_under(self, box_mm: Box) -> tuple[int, int, int, int]:
        """The smallest box of whole pixels that covers a box of the sign."""
        low, high = (np.reshape(box_mm, (2, 2)) - self.image_mm[:2]) / _pitch(self.image_mm, self.image.size)
        left, top = np.floor(low.clip(0) + 1e-6).astype(int).tolist()
        right, bottom = np.ceil(high.clip(None, self.image.size) - 1e-6).astype(int).tolist()
        return left, top, right, bottom


def parts_of(rgba: Image.Image, place_mm: Box) -> list[Part]:
    """The connected opaque parts, top to bottom; all together as one when there are too many to cut out.

    Raises:
        UserError: nothing is opaque.
    """
    opaque = np.asarray(rgba.getchannel("A")) >= OPAQUE
    if not opaque.any():
        raise UserError("The artwork is transparent everywhere: there is nothing to print.")
    count, labels = cv2.connectedComponents(opaque.astype(np.uint8), connectivity=8)
    masks = [labels == i for i in range(1, count)] if count - 1 <= PIECES_MAX else [opaque]
    parts = [_part(rgba, mask, place_mm) for mask in masks]
    return sorted(parts, key=lambda part: (part.box_mm[1], part.box_mm[0]))


def with_tags(parts: list[Part], family: str, colours: Sequence[Colour], *, all_round: bool) -> Part:
    """The one part in a white border that bears tags and colour strip: on all sides, or left and right only.

    Raises:
        UserError: there are several parts, which lose their tags when they are cut out.
    """
    if len(parts) > 1:
        raise UserError(f"The artwork has {len(parts)} parts, of which tags can mark one: use --tags-at page.")
    (part,) = parts
    left, top, right, bottom = part.image_mm
    side, quiet = tag_mm(min(right - left, bottom - top), family)
    border = side + 2 * quiet
    rise = border if all_round else max(0.0, border - (bottom - top) / 2)
    x0, y0, x1, y1 = box = (left - border, top - rise, right + border, bottom + rise)
    strip = (
        (left, bottom + quiet, right, y1 - quiet)
        if all_round
        else (right + quiet, y0 + border, x1 - quiet, y1 - border)
    )
    return replace(
        part,
        box_mm=box,
        outlines_mm=(np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]),),
        tags=corner_tags((x0 + quiet, y0 + quiet, x1 - quiet, y1 - quiet), side, family),
        strip=_legible(strip, colours),
    )


def _legible(box_mm: Box, colours: Sequence[Colour]) -> tuple[Patch, ...]:
    """The strip, unless its patches would be too small."""
    left, top, right, bottom = box_mm
    if min(right - left, bottom - top) <= 0:
        return ()
    strip = patches(box_mm, colours)
    sides = [min(x1 - x0, y1 - y0) for x0, y0, x1, y1 in (patch.box_mm for patch in strip)]
    return strip if sides and min(sides) >= PATCH_MIN_MM else ()


def _part(rgba: Image.Image, mask: Bool[np.ndarray, "h w"], place_mm: Box) -> Part:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    inside = mask[top:bottom, left:right]
    rgb = np.array(on_white(rgba.crop((left, top, right, bottom))))
    rgb[~inside] = 255
    pitch = np.array(_pitch(place_mm, mask.shape[::-1]))
    origin = np.array(place_mm[:2])
    corners = (origin + pitch * (left, top), origin + pitch * (right, bottom))
    tolerance_px = CUT_TOLERANCE_MM / pitch.max()
    outlines = tuple(corners[0] + pitch * smooth(outline, tolerance_px) for outline in outlines_px(inside))
    box = tuple(np.concatenate(corners).tolist())
    return Part(Image.fromarray(rgb), inside, box, box, outlines)


def on_white(rgba: Image.Image) -> Image.Image:
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def smooth(outline: Int[np.ndarray, "points 2"], tolerance_px: float) -> Float[np.ndarray, "fewer 2"]:
    """The outline with as few corners as stay within the tolerance."""
    return cv2.approxPolyDP(outline.astype(np.float32), tolerance_px, True)[:, 0].astype(float)


def _pitch(box_mm: Box, size_px: Sequence[int]) -> Point:
    """Millimetres per pixel across and down."""
    return (box_mm[2] - box_mm[0]) / size_px[0], (box_mm[3] - box_mm[1]) / size_px[1]
