"""What is before the camera without any artwork, in linear light: a staged sign over its backdrop, or a photograph."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from physadv.scenes.base import Scenes, floats
from physadv.targets.base import Frame
from physadv.transforms.base import Params
from physadv.transforms.colour import to_linear
from physadv.transforms.geometry import Geometry
from physadv.transforms.stages import Draw
from physadv.transforms.view import Backdrop
from physadv.transforms.warp import (
    DRAWN,
    Homography,
    level_for,
    normalising,
    project,
    pull_grid,
    pyramid,
    sample_levels,
)

_EDGE = 0.1  # share of a face's box beyond its raster that its soft edge may reach
_known: WeakIdKeyDictionary = WeakIdKeyDictionary()  # the backgrounds' pyramids, made once


def staged(
    scenes: Scenes, backdrop: Params, box: "Boxes", frame: Frame, at: Geometry, rows: slice
) -> Float[Tensor, "r 3 h w"]:
    """Views `rows`: the sign over its backdrop."""
    light = to_linear(_backdrop(scenes, {name: value[rows] for name, value in backdrop.items()}, frame))
    top, left, height, width = box.around(rows)
    if not height * width:
        return light
    face, size_mm = scenes.face[rows], scenes.faces.size_mm[scenes.face[rows]]
    texels = scenes.faces.images.shape[-1] / size_mm.amax(1) / at.px_per_mm[rows] * at.sensor_px[rows].clamp(min=1)
    start = torch.zeros(len(face), dtype=torch.long, device=face.device)
    grid = pull_grid(box.back[rows], start + top, start + left, height, width)
    seen = sample_levels(scenes.faces.light, grid, level_for(texels, sharp=DRAWN), source=face)
    under = light[:, :, top : top + height, left : left + width]
    under.mul_(1 - seen[:, 3:]).add_(seen[:, :3])
    return light


@dataclass(frozen=True)
class Boxes:
    """Where the faces of all views are. back: frame px -> [-1, 1]² of each face."""

    low: list[list[int]]
    high: list[list[int]]
    back: Homography

    def around(self, rows: slice) -> tuple[int, int, int, int]:
        """Top, left, height and width of what holds the faces of all views `rows`, inside the frame."""
        left, top = (min(corner) for corner in zip(*self.low[rows], strict=True))
        right, bottom = (max(corner) for corner in zip(*self.high[rows], strict=True))
        return top, left, max(0, bottom - top), max(0, right - left)


def boxes_of(scenes: Scenes, at: Geometry, size_px: int) -> Boxes:
    """Of staged signs."""
    size_mm = scenes.faces.size_mm[scenes.face]
    none = torch.zeros_like(size_mm)
    width, height = size_mm.unbind(1)
    x, y = torch.stack([none[:, 0], width, width, none[:, 0]], 1), torch.stack([*none.T, height, height], 1)
    seen = project(at.warp, torch.stack([x, y], 2))
    least, most = seen.amin(1), seen.amax(1)
    margin = 2 + _EDGE * (most - least)
    low, high = ((edge.round().clamp(0, size_px)).long().tolist() for edge in (least - margin, most + margin))
    return Boxes(low, high, normalising(none, size_mm) @ at.warp.inverse())


def backdrop_of(draw: Draw) -> Params:
    """Which background each view has, and which part of it."""
    return draw.of(draw.stages.get(Backdrop))


def _backdrop(scenes: Scenes, params: Params, frame: Frame) -> Float[Tensor, "r 3 h w"]:
    """Encoded, as the background's own camera left it."""
    assert scenes.backgrounds is not None
    pictures = scenes.backgrounds
    which = (params["which"] * len(pictures)).long().clamp(max=len(pictures) - 1)
    crop = torch.ones_like(params["crop"]) if frame.whole else params["crop"]
    corner = params["corner"] * (crop < 1)[:, None]
    level = level_for(crop * pictures.shape[-1] / frame.size_px)
    levels = _levels(pictures, int(level.max()))
    steps = (torch.arange(frame.size_px, device=crop.device) + 0.5) * (2 / frame.size_px)
    x, y = (2 * corner[:, axis, None] - 1 + crop[:, None] * steps for axis in (0, 1))
    shape = (len(crop), frame.size_px, frame.size_px)
    grid = torch.stack([x[:, None].expand(shape), y[:, :, None].expand(shape)], 1).permute(0, 2, 3, 1)
    return sample_levels(levels, grid, level, border="border", source=which)


def _levels(pictures: Float[Tensor, "m 3 y x"], most: int) -> list[Tensor]:
    """Their pyramid up to the level `most` at least, made once."""
    coarser: list[Tensor] = _known.setdefault(pictures, [])  # not the pictures themselves: they would never be freed
    if len(coarser) < most:
        coarser[:] = pyramid(pictures, levels=most)[1:]
    return [pictures, *coarser]


def photographed(images: Tensor, warp: Homography, level: Int[Tensor, " r"], size_px: int) -> Float[Tensor, "r 3 h w"]:
    """The photographs, turned, mirrored beyond their edge; decoded after resampling: their own camera encoded them."""
    images = floats(images)
    corner = warp.new_tensor([[images.shape[-1], images.shape[-2]]])
    start = torch.zeros(len(warp), dtype=torch.long, device=warp.device)
    grid = pull_grid(normalising(torch.zeros_like(corner), corner) @ warp.inverse(), start, start, size_px, size_px)
    return to_linear(sample_levels(pyramid(images, levels=int(level.max())), grid, level, border="reflection"))


def outside(extent_px: Float[Tensor, "r 2"], warp: Homography, size_px: int) -> Float[Tensor, "r 1 h w"]:
    """1 where a frame px shows nothing of the photograph, its edge one px soft."""
    start = torch.zeros(len(warp), dtype=torch.long, device=warp.device)
    points = pull_grid(warp.inverse(), start, start, size_px, size_px)
    depth = torch.minimum(points, extent_px[:, None, None] - points).amin(3)
    return (0.5 - depth).clamp(0, 1)[:, None]
