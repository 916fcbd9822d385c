"""Fixed random tiles from which every view cuts its piece: drawn once, so noise depends on the place alone."""

from collections.abc import Iterator
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import grid_sample

_TILE = 1024
_SMOOTH = 64


def frame_points(height: int, width: int, *, device: torch.device) -> Float[Tensor, "1 h w 2"]:
    """Pixel centres in [0, 1]² of the frame."""
    y = (torch.arange(height, device=device) + 0.5) / height
    x = (torch.arange(width, device=device) + 0.5) / width
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)[None]


def soft_step(value: Float[Tensor, "n 1 h w"], softness: Float[Tensor, "#n 1 1 1"]) -> Float[Tensor, "n 1 h w"]:
    """0 -> 1 across zero."""
    return torch.sigmoid(4 * value / softness)


@cache
def _white(device: torch.device) -> Float[Tensor, "3 t t"]:
    return torch.randn(3, _TILE, _TILE, generator=torch.Generator().manual_seed(0)).to(device)


@cache
def _smooth(device: torch.device) -> Float[Tensor, "1 1 t t"]:
    noise = torch.randn(1, 1, _SMOOTH, _SMOOTH, generator=torch.Generator().manual_seed(1))
    return noise.to(device)


def white_noise(place: Float[Tensor, "n 2"], height: int, width: int) -> Float[Tensor, "n 3 h w"]:
    """Standard normal noise, cut from the tile at place in [0, 1]² (frames beyond the tile's size repeat it)."""
    tile = _white(place.device)
    corner = (place * _TILE).long().clamp(max=_TILE - 1)
    rows = (corner[:, 1:] + torch.arange(height, device=place.device)) % _TILE
    columns = (corner[:, :1] + torch.arange(width, device=place.device)) % _TILE
    return tile[:, rows[:, :, None], columns[:, None, :]].movedim(0, 1)


def noise_cuts(
    place: Float[Tensor, "n 2"], top: list[int], left: list[int], height: int, width: int
) -> Iterator[Float[Tensor, "3 h w"]]:
    """The window at (top, left) of each frame's `white_noise`; no copy, but where it lies over the tile's edge."""
    tile = _white(place.device)
    corner = (place * _TILE).long().clamp(max=_TILE - 1).tolist()
    for (x, y), row, column in zip(corner, top, left, strict=True):
        yield _wrapped(_wrapped(tile, 1, (y + row) % _TILE, height), 2, (x + column) % _TILE, width)


def _wrapped(tile: Float[Tensor, "3 y x"], axis: int, start: int, length: int) -> Float[Tensor, "3 v u"]:
    """`length` of the tile along an axis, from the beginning again behind its end."""
    if start + length <= _TILE:
        return tile.narrow(axis, start, length)
    parts = [tile.narrow(axis, start, _TILE - start)]
    while (rest := length - sum(part.shape[axis] for part in parts)) > 0:
        parts.append(tile.narrow(axis, 0, min(rest, _TILE)))
    return torch.cat(parts, axis)


def texture(
    place: Float[Tensor, "n 2"], height: int, width: int, *, scale: Float[Tensor, " n"]
) -> Float[Tensor, "n 1 h w"]:
    """Smooth noise of unit variance with blobs of about `scale` of the frame, cut at place."""
    span = (2 / (scale * _SMOOTH))[:, None, None, None].clamp(max=1)
    away = frame_points(height, width, device=place.device) - 0.5
    grid = away * span + (2 * place[:, None, None] - 1) * (1 - span)
    tile = _smooth(place.device).expand(len(place), -1, -1, -1)
    return grid_sample(tile, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
