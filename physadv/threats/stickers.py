"""Opaque stickers where a mask is white (Eykholt et al. 2018), and the ring along the outline."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from physadv.errors import UserError
from physadv.scenes.base import Scenes
from physadv.threats.masks import (
    MASKS,
    Mask,
    bounding_box,
    built_in_mask,
    clip_to_face,
    coverage,
    file_mask,
    raster_size_px,
    ring_mask,
)
from physadv.threats.printed import Printed, faces_in_use
from physadv.threats.sets import PALETTES


@dataclass(frozen=True)
class Stickers:
    """`mask`: a name of `masks.MASKS`, or a picture over the whole face, white = sticker."""

    mask: str | Path
    palette: str = "any"

    @property
    def name(self) -> str:
        return f"stickers:{self.mask if isinstance(self.mask, str) else self.mask.name}"

    def resolve(self, scenes: Scenes, *, resolution_px: int, seed: int) -> Printed:
        """The mask, clipped to the opaque face; the raster is its bounding box only. Draws nothing."""
        return _on_faces(self.name, self.palette, scenes, self._mask, resolution_px=resolution_px)

    def _mask(self, face_alpha: Mask, width_mm: float, height_mm: float) -> Mask:
        if self.mask in MASKS:
            return built_in_mask(str(self.mask))
        return file_mask(Path(self.mask), face_width_mm=width_mm, face_height_mm=height_mm)


@dataclass(frozen=True)
class Ring:
    """An even band along the inside of the outline that covers `share` of the face."""

    share: float
    palette: str = "any"

    @property
    def name(self) -> str:
        return f"ring:{self.share * 100:g}%"

    def resolve(self, scenes: Scenes, *, resolution_px: int, seed: int) -> Printed:
        """The band of each face in use. Draws nothing."""
        return _on_faces(self.name, self.palette, scenes, self._mask, resolution_px=resolution_px)

    def _mask(self, face_alpha: Mask, width_mm: float, height_mm: float) -> Mask:
        return ring_mask(face_alpha, share=self.share, face_width_mm=width_mm, face_height_mm=height_mm)


def _on_faces(
    name: str, palette: str, scenes: Scenes, draw: Callable[[Mask, float, float], Mask], *, resolution_px: int
) -> Printed:
    """The mask that `draw` makes of (face alpha, width, height), cropped alike on every face in use."""
    rows = faces_in_use(scenes)
    unique, which = rows.cpu().unique(return_inverse=True)
    alphas = [scenes.faces.images[row, 3].cpu().numpy() for row in unique]
    sizes_mm = scenes.faces.size_mm[unique.to(rows.device)].cpu()
    masks = [draw(alpha, *size) for alpha, size in zip(alphas, sizes_mm.tolist(), strict=True)]
    clipped = [clip_to_face(mask, alpha) for mask, alpha in zip(masks, alphas, strict=True)]
    if not all(mask.any() for mask in clipped):
        raise UserError(f"{name} lies beside the opaque face: move the stickers onto it.")
    boxes = [_box_shares(mask) for mask in masks]
    box = torch.cat([torch.stack(boxes)[:, :2].amin(0), torch.stack(boxes)[:, 2:].amax(0)])
    places_mm = box * sizes_mm.repeat(1, 2)
    size_px = raster_size_px(*(places_mm[0, 2:] - places_mm[0, :2]).tolist(), resolution_px=resolution_px)
    alpha = torch.stack([coverage(_crop(mask, box), size_px) for mask in clipped])
    device = scenes.images.device
    return Printed(name, PALETTES[palette], alpha[which].to(device), places_mm[which].to(device))


def _box_shares(mask: Mask) -> Float[Tensor, "4"]:
    rows, columns = mask.shape
    return torch.tensor(bounding_box(mask)) / torch.tensor([columns, rows, columns, rows])


def _crop(mask: Mask, box: Float[Tensor, "4"]) -> Mask:
    rows, columns = mask.shape
    left, top, right, bottom = (box * torch.tensor([columns, rows, columns, rows])).round().int().tolist()
    return mask[top:bottom, left:right]
