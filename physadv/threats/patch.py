"""One rectangular or round patch (Brown et al. 2017), its size in mm or as a share of the face."""

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from physadv.errors import UserError
from physadv.scenes.base import Faces, Scenes
from physadv.threats.masks import coverage, ellipse_mask, raster_size_px
from physadv.threats.printed import Printed, faces_in_use
from physadv.threats.sets import PALETTES
from physadv.threats.sought import Free, SoughtPatch

_GRID = 33  # places per axis
_INSIDE = 0.995  # the edge of a face is antialiased

Centre = tuple[float, float] | Literal["center", "random", "worst"]


@dataclass(frozen=True)
class Patch:
    """`size`: (width, height) in mm, or the share of the face's opaque area that a square or circle covers.

    centre: of the patch, in mm from the face's top-left; "center" of the face; "random" anywhere on the opaque face,
    drawn anew for each view; "worst" where it does most harm, sought for each scene (`location.py`).
    """

    size: tuple[float, float] | float
    round: bool = False
    centre: Centre = "center"
    palette: str = "any"

    @property
    def name(self) -> str:
        if isinstance(self.size, tuple):
            size = f"{self.size[0]:g}mm" if self.size[0] == self.size[1] else f"{self.size[0]:g}x{self.size[1]:g}mm"
        else:
            size = f"{self.size * 100:g}%"
        place = f"{self.centre[0]:g},{self.centre[1]:g}" if isinstance(self.centre, tuple) else self.centre
        return f"patch:{size}{':circle' if self.round else ''}{'' if place == 'center' else '@' + place}"

    def size_mm(self, faces: Faces) -> Float[Tensor, "k 2"]:
        """Width and height on each face."""
        if isinstance(self.size, tuple):
            return faces.size_mm.new_tensor([self.size]).expand(len(faces.size_mm), 2)
        side_mm = (self.size * faces.area_mm2 * (4 / math.pi if self.round else 1)).sqrt()
        return side_mm[:, None].expand(-1, 2)

    def resolve(self, scenes: Scenes, *, resolution_px: int, seed: int) -> Printed:
        """UserError: the patch does not fit the box of a face."""
        each = self.centre in ("random", "worst") and scenes.photograph is None
        rows = scenes.face if each else faces_in_use(scenes)
        sizes_mm, faces_mm = self.size_mm(scenes.faces)[rows], scenes.faces.size_mm[rows]
        size_px = raster_size_px(*sizes_mm[0].tolist(), resolution_px=resolution_px)
        alpha = coverage(ellipse_mask(), size_px)[None] if self.round else torch.ones(1, 1, *size_px)
        if self.centre in ("random", "worst"):
            free = free_places(scenes.faces, self.size_mm(scenes.faces), rows)
            u = torch.rand(len(rows), 2, generator=torch.Generator().manual_seed(seed))
            places_mm = free.places(u[:, 0], rows)
        else:
            middle = faces_mm / 2 if self.centre == "center" else faces_mm.new_tensor([self.centre]).expand_as(faces_mm)
            places_mm = torch.cat([middle - sizes_mm / 2, middle + sizes_mm / 2], 1)
        self._check(places_mm, faces_mm)
        threat = self.name, PALETTES[self.palette], alpha.to(scenes.images.device), places_mm
        if self.centre == "random":
            return RoamingPatch(*threat, free=free)
        if self.centre == "worst":
            return SoughtPatch(*threat, face=rows.expand(len(scenes)), free=free)
        return Printed(*threat)

    def _check(self, places_mm: Float[Tensor, "n 4"], faces_mm: Float[Tensor, "n 2"]) -> None:
        slack_mm = 1e-3
        out = (places_mm[:, :2] < -slack_mm).any(1) | (places_mm[:, 2:] > faces_mm + slack_mm).any(1)
        if out.any():
            row = int(out.nonzero()[0])
            left, top, right, bottom = places_mm[row].tolist()
            width, height = faces_mm[row].tolist()
            raise UserError(
                f"{self.name} does not fit: it would span x {left:.0f} to {right:.0f}, y {top:.0f} to {bottom:.0f} mm "
                f"of a face of {width:g} x {height:g} mm; make it smaller or move it."
            )


@dataclass(frozen=True)
class RoamingPatch(Printed):
    """A patch whose place is part of T: the attack draws it anew for each view. `place_mm` is one draw, kept."""

    free: Free = field(kw_only=True)

    @property
    def roams(self) -> bool:
        return True

    def places(self, u: Float[Tensor, "n 2"], scenes: Scenes, rows: Int[Tensor, " n"]) -> Float[Tensor, "n 4"]:
        """Uniforms -> places in mm, anywhere on the face of each view's scene."""
        if scenes.photograph is None:
            face = scenes.face[rows.to(scenes.face.device)]
        else:
            face = faces_in_use(scenes).expand(len(rows))
        return self.free.places(u[:, 0], face)


def free_places(faces: Faces, sizes_mm: Float[Tensor, "k 2"], rows: Int[Tensor, " n"]) -> Free:
    """The places on the faces `rows`."""
    used = rows.unique().tolist()
    found = {row: _free_corners(faces.images[row, 3], sizes_mm[row], faces.size_mm[row]) for row in used}
    return Free(found, sizes_mm)


def _free_corners(
    alpha: Float[Tensor, "s s"], size_mm: Float[Tensor, "2"], face_mm: Float[Tensor, "2"]
) -> Float[Tensor, "m 2"]:
    """Top-left corners at which a patch covers nothing but face; where it fits nowhere, those where it fits best."""
    side = len(alpha)
    filled = pad(alpha.double().cumsum(0).cumsum(1), (1, 0, 1, 0))
    steps = torch.linspace(0, 1, _GRID, device=alpha.device)
    corners_mm = torch.cartesian_prod(steps, steps).flip(1) * (face_mm - size_mm)
    (x0, y0), (x1, y1) = ((edge / face_mm * side).round().long().T for edge in (corners_mm, corners_mm + size_mm))
    inside = (filled[y1, x1] - filled[y0, x1] - filled[y1, x0] + filled[y0, x0]) / ((x1 - x0) * (y1 - y0)).clamp(min=1)
    return corners_mm[inside >= min(_INSIDE, float(inside.max()) - 1e-6)]
