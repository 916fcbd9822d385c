"""Artworks onto views: each sign in a window of its own, windows of like size in one `grid_sample`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import grid_sample

from physadv.threats.base import Artwork
from physadv.transforms.base import Params
from physadv.transforms.mount import Bend
from physadv.transforms.print import monomials
from physadv.transforms.warp import Homography, level_for, normalising, project, pull_grid, pyramid

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


@dataclass(frozen=True)
class Places:
    """The same windows as plain numbers: the view that each is in, and its corner."""

    of: list[int]
    top: list[int]
    left: list[int]
    height: int
    width: int

    def views(self, frames: Float[Tensor, "n c y x"]) -> list[Float[Tensor, "c h w"]]:
        """The windows themselves, to be written into."""
        return [
            frames[view, :, top : top + self.height, left : left + self.width]
            for view, top, left in zip(self.of, self.top, self.left, strict=True)
        ]

    def cut(self, frames: Float[Tensor, "n c y x"]) -> Float[Tensor, "r c h w"]:
        """The windows as one block."""
        return self.in_all(frames) if self.shared(len(frames)) else torch.stack(self.views(frames))

    def in_all(self, frames: Float[Tensor, "n c y x"]) -> Float[Tensor, "n c h w"]:
        """The one window of all frames, to be written into."""
        top, left = self.top[0], self.left[0]
        return frames[:, :, top : top + self.height, left : left + self.width]

    def shared(self, views: int) -> bool:
        """Whether it is one window in all of the views."""
        return self.of == list(range(views)) and len(set(self.top)) == len(set(self.left)) == 1

    def share(self, frames: Float[Tensor, "n c y x"]) -> float:
        """Of a frame, that a window holds."""
        return self.height * self.width / frames[0, 0].numel()


def places(window: Windows, of: Int[Tensor, " k"]) -> Places:
    """of: the view of every sign."""
    views, top, left = (part.tolist() for part in (of[window.rows], window.top, window.left))
    return Places(views, top, left, window.height, window.width)


def differences(
    signs: Signs, base: Float[Tensor, "n 3 h w"], shade: Float[Tensor, "n 1 h w"]
) -> list[tuple[Windows, Float[Tensor, "_ 3 _ _"]]]:
    """cover · (shade · colour · artwork − base) in every window: what the artwork adds, blurred edge and all."""
    if not len(signs.of):
        return []
    finest = level_for(signs.texels_per_px)
    picture = signs.artwork.to(base.device)
    levels = pyramid(monomials(picture.rgb, picture.alpha), levels=min(_LEVELS, int(finest.amax())))
    back = normalising(signs.place_mm[:, :2], signs.place_mm[:, 2:]) @ signs.to_px.inverse()
    found = []
    for window in _windows(signs, base.shape[-2:]):
        at = places(window, signs.of)
        lit, cover = _flatten(signs, window, levels, finest, _grid(signs, window, back))
        found.append((window, lit * at.cut(shade) - cover * at.cut(base)))
    return found


def paste(
    linear: Float[Tensor, "n 3 h w"], signs: Signs, base: Float[Tensor, "n 3 h w"], shade: Float[Tensor, "n 1 h w"]
) -> Float[Tensor, "n 3 h w"]:
    """linear + `differences`, with no lens and no camera behind it."""
    found = differences(signs, base, shade)
    return _Added.apply(linear, [places(window, signs.of) for window, _ in found], *(added for _, added in found))


class _Added(torch.autograd.Function):
    """Frames with blocks added into their windows. No frame-sized gradient is made but the one that comes in."""

    @staticmethod
    def forward(
        ctx: Any, frames: Float[Tensor, "n c y x"], windows: Sequence[Places], *blocks: Tensor
    ) -> Float[Tensor, "n c y x"]:
        ctx.windows = windows
        frames = frames.clone()
        for window, block in zip(windows, blocks, strict=True):
            for part, added in zip(window.views(frames), block, strict=True):
                part.add_(added)
        return frames

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, pull: Float[Tensor, "n c y x"]) -> Any:
        return pull, None, *(window.cut(pull) for window in ctx.windows)


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
    signs: Signs,
    window: Windows,
    levels: list[Tensor],
    finest: Int[Tensor, " k"],
    grid: Float[Tensor, "r h w 2"],
) -> tuple[Float[Tensor, "r 3 h w"], Float[Tensor, "r 1 h w"]]:
    """The artwork in each sign's colours, and its cover, as the windows' pixels see them.

    A warp moves every channel alike, so colours are mixed before it: three channels go through instead of eleven.
    """
    rows = window.rows
    which = finest[rows].clamp(max=len(levels) - 1)
    parts, order = [], []
    for level in which.unique().tolist():
        some = (which == level).nonzero()[:, 0]
        terms = levels[level] if len(levels[level]) == 1 else levels[level].index_select(0, rows[some])
        mixed = signs.colour[rows[some]] @ terms.flatten(2)
        cover = terms[:, 0].detach().flatten(1)[:, None].expand(len(some), 1, -1)
        pictures = torch.cat([mixed, cover], 1).unflatten(2, terms.shape[-2:])
        parts.append(grid_sample(pictures, grid[some] if len(some) < len(rows) else grid, align_corners=False))
        order.append(some)
    lit = parts[0] if len(parts) == 1 else torch.cat(parts).index_select(0, torch.cat(order).argsort())
    return lit[:, :3], lit[:, 3:].detach()


@torch.no_grad()
def _grid(signs: Signs, window: Windows, back: Homography) -> Float[Tensor, "r h w 2"]:
    """Where on the flat artwork, [-1, 1]², each of the windows' pixels looks."""
    rows = window.rows
    grid = pull_grid(back[rows], window.top, window.left, window.height, window.width)
    if not signs.bend.share:
        return grid
    bent = {name: value[rows] for name, value in signs.bent.items()}
    unit = signs.bend.pull(bent, (grid.flatten(1, 2) + 1) / 2)
    return (2 * unit - 1).unflatten(1, grid.shape[1:3])
