"""Artworks onto views: each sign in a window of its own, windows of like size in one `grid_sample`."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from physadv.threats.base import Artwork
from physadv.transforms.base import Params
from physadv.transforms.mount import Bend
from physadv.transforms.print import monomials
from physadv.transforms.warp import Homography, level_for, pixel_grid, project, pyramid, sample_pyramid

_LEVELS = 4  # an artwork more than 16 times finer than the frame is not resolved by any view
_GROWTH = 1.3  # from one size of window to the next: 1.3² of the pixels at most are for nothing


@dataclass(frozen=True)
class Signs:
    """k signs, and how the artwork hangs on each. shared: they lie alike in their views, one window fits all."""

    artwork: Artwork
    of: Int[Tensor, " k"]  # the view that each is in
    to_px: Homography  # surface mm as designed -> frame px as mounted
    colour: Float[Tensor, "k 3 11"]
    place_mm: Float[Tensor, "k 4"]
    bend: Bend
    bent: Params
    texels_per_px: Float[Tensor, " k"]
    shared: bool


@dataclass(frozen=True)
class Windows:
    """Windows of one size for the signs `rows`, inside the frame."""

    rows: Int[Tensor, " r"]
    top: Int[Tensor, " r"]
    left: Int[Tensor, " r"]
    height: int
    width: int

    def pixels(self, of: Int[Tensor, " r"], frame: torch.Size, channels: int) -> Int[Tensor, "r c h w"]:
        """Where the windows' pixels are in the flattened views."""
        y, x = (torch.arange(size, device=of.device) for size in (self.height, self.width))
        inside = (self.top[:, None] + y)[:, :, None] * frame[1] + (self.left[:, None] + x)[:, None]
        plane = of[:, None] * channels + torch.arange(channels, device=of.device)
        return plane[:, :, None, None] * frame.numel() + inside[:, None]


def paste(
    linear: Float[Tensor, "n 3 h w"], signs: Signs, base: Float[Tensor, "n 3 h w"], shade: Float[Tensor, "n 1 h w"]
) -> Float[Tensor, "n 3 h w"]:
    """linear + cover · (shade · colour · artwork − base): what the artwork covers is replaced, blurred edge and all."""
    if not len(signs.of):
        return linear
    size = linear.shape[-2:]
    finest = level_for(signs.texels_per_px)
    picture = signs.artwork.to(linear.device)
    levels = pyramid(monomials(picture.rgb, picture.alpha), levels=min(_LEVELS, int(finest.amax())))
    flattened = linear.flatten()
    for window in _windows(signs, size):
        flat = _flatten(signs, window, levels, finest)
        of, cover = signs.of[window.rows], flat[:, :1].detach()
        lit = shade.flatten()[window.pixels(of, size, 1)] * _mix(signs.colour[window.rows], flat)
        where = window.pixels(of, size, 3)
        flattened = flattened.index_add(0, where.flatten(), (lit - cover * base.flatten()[where]).flatten())
    return flattened.view_as(linear)


@torch.no_grad()
def _windows(signs: Signs, size: torch.Size) -> list[Windows]:
    """The window of every sign in view; sizes grow in steps, so that there are few of them."""
    low, high = _bounds(signs, size)
    seen = (high > low).all(1).nonzero()[:, 0]
    if not len(seen):
        return []
    limit = torch.tensor([size[1], size[0]], device=low.device)
    sides = high[seen] - low[seen]
    if not signs.shared:
        step = (sides.double().log() / torch.tensor(_GROWTH).double().log()).ceil()
        sides = torch.minimum((_GROWTH**step).ceil().long(), limit)
    made = []
    for width, height in sides.unique(dim=0).tolist():
        rows = seen[(sides == sides.new_tensor([width, height])).all(1)]
        corner = torch.minimum(low[rows], limit - sides.new_tensor([width, height])).clamp(min=0)
        made.append(Windows(rows, corner[:, 1], corner[:, 0], height, width))
    return made


def _bounds(signs: Signs, size: torch.Size) -> tuple[Int[Tensor, "k 2"], Int[Tensor, "k 2"]]:
    """Low and high (x, y) px of the box round each artwork, clipped to the frame; slack: bilinear edge and bend."""
    place = signs.place_mm
    corners = torch.stack([place[:, [0, 1]], place[:, [2, 1]], place[:, [2, 3]], place[:, [0, 3]]], 1)
    seen = project(signs.to_px, corners)
    least, most = seen.amin(1), seen.amax(1)
    if signs.shared:
        least, most = (edge.expand_as(least) for edge in (least.amin(0), most.amax(0)))
    slack = max(0.1, signs.bend.share + 0.5 / min(signs.artwork.rgb.shape[-2:]))
    margin = 1 + slack * (most - least)
    limit = torch.tensor([size[1], size[0]], device=place.device)
    low, high = (least - margin).floor().clamp(min=0).long(), torch.minimum((most + margin).ceil().long(), limit)
    return low, high


def _flatten(
    signs: Signs, window: Windows, levels: list[Tensor], finest: Int[Tensor, " k"]
) -> Float[Tensor, "r 11 h w"]:
    """The artwork's monomials as the windows' pixels see them."""
    rows = window.rows
    with torch.no_grad():
        corner = torch.stack([window.left, window.top], 1)[:, None]
        pixels = pixel_grid(0, 0, window.height, window.width, device=rows.device) + corner
        place = signs.place_mm[rows]
        unit = (project(signs.to_px[rows].inverse(), pixels) - place[:, None, :2]) / (place[:, 2:] - place[:, :2])[
            :, None
        ]
        unit = signs.bend.pull({name: value[rows] for name, value in signs.bent.items()}, unit)
    source = None if len(levels[0]) == 1 or len(rows) == len(levels[0]) else rows
    return sample_pyramid(levels, unit, finest[rows], height=window.height, width=window.width, source=source)


def _mix(matrix: Float[Tensor, "r 3 k"], image: Float[Tensor, "r k h w"]) -> Float[Tensor, "r 3 h w"]:
    return torch.bmm(matrix, image.flatten(2)).unflatten(2, image.shape[-2:])
