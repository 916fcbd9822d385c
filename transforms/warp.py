"""Geometry of the plane, and the convention that the whole project points to.

Convention. Images are float32 (b, 3, h, w), RGB, sRGB-encoded, in [0, 1]. Pixel centres lie at +0.5, so an image
spans [0, w] x [0, h]; x right, y down. A surface is a plane in mm with its origin at the sign's top-left. A
homography maps column vectors, surface mm -> px, and is stored row-major (n, 3, 3). Angles are degrees: yaw about the
vertical, positive when the sign's right side recedes; pitch about the horizontal, positive when its top recedes; roll
in the image, clockwise.
"""

import torch
from jaxtyping import Float, Int
from kornia.geometry.linalg import transform_points
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, grid_sample

Homography = Float[Tensor, "n 3 3"]


def translation(shift: Float[Tensor, "n 2"]) -> Homography:
    """Shift by (x, y)."""
    matrix = torch.eye(3, device=shift.device).repeat(len(shift), 1, 1)
    matrix[:, :2, 2] = shift
    return matrix


def scaling(factor: Float[Tensor, " n"]) -> Homography:
    """Scale both axes about the origin."""
    return torch.diag_embed(torch.stack([factor, factor, torch.ones_like(factor)], 1))


def rotation(degrees: Float[Tensor, " n"]) -> Homography:
    """Rotate in the plane, clockwise on the screen (y points down)."""
    return _turn(degrees, axis=2)


def pinhole(
    distance_m: Float[Tensor, " n"],
    yaw_deg: Float[Tensor, " n"],
    pitch_deg: Float[Tensor, " n"],
    roll_deg: Float[Tensor, " n"],
    focal_px: Float[Tensor, " n"],
) -> Homography:
    """mm about the sign's centre -> sensor px about the axis: K [r1 r2 t] (Hartley & Zisserman 2004, eq. 8.1)."""
    turned = _turn(roll_deg, axis=2) @ _turn(-pitch_deg, axis=0) @ _turn(-yaw_deg, axis=1)
    plane = torch.stack([turned[:, :, 0], turned[:, :, 1], torch.zeros_like(turned[:, :, 2])], 2) / 1000
    plane[:, 2, 2] = distance_m
    camera = torch.diag_embed(torch.stack([focal_px, focal_px, torch.ones_like(focal_px)], 1))
    return camera @ plane


def _turn(degrees: Float[Tensor, " n"], *, axis: int) -> Homography:
    """Right-handed about one axis (Rodrigues' formula, written out)."""
    angle = torch.deg2rad(degrees)
    cosine, sine = angle.cos(), angle.sin()
    first, second = (axis + 1) % 3, (axis + 2) % 3
    turned = torch.zeros(len(degrees), 3, 3, device=degrees.device)
    turned[:, axis, axis] = 1
    turned[:, first, first] = turned[:, second, second] = cosine
    turned[:, second, first], turned[:, first, second] = sine, -sine
    return turned


def project(matrix: Homography, points: Float[Tensor, "n k 2"]) -> Float[Tensor, "n k 2"]:
    """Points through a homography."""
    return transform_points(matrix, points)


def crop_of(
    outline_px: Float[Tensor, "n k 2"], *, size_px: int, context: float, jitter: Float[Tensor, "n 3"]
) -> tuple[Homography, Float[Tensor, " n"]]:
    """The square crop a classifier sees -> frame px, and its side in px before resizing.

    side = max(w, h) · (1 + 2·context) of the outline's box. jitter: shift x, shift y, log-scale, as shares of it.
    """
    low, high = outline_px.amin(1), outline_px.amax(1)
    side = (high - low).amax(1) * (1 + 2 * context) * jitter[:, 2].exp()
    corner = (low + high) / 2 + (jitter[:, :2] - 0.5) * side[:, None]
    return scaling(size_px / side) @ translation(-corner), side


def pixel_grid(top: int, left: int, height: int, width: int, *, device: torch.device) -> Float[Tensor, "1 hw 2"]:
    """Centres of the pixels of a window, as points."""
    y = torch.arange(top, top + height, device=device) + 0.5
    x = torch.arange(left, left + width, device=device) + 0.5
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).reshape(1, -1, 2)


def pull_grid(
    matrix: Homography, top: Int[Tensor, " n"], left: Int[Tensor, " n"], height: int, width: int
) -> Float[Tensor, "n height width 2"]:
    """Centres of the pixels of a window through a homography each; a view of (n, 2, height, width)."""
    y = top[:, None] + torch.arange(height, device=matrix.device) + 0.5
    x = left[:, None] + torch.arange(width, device=matrix.device) + 0.5
    rows = matrix[:, :, 1, None] * y[:, None] + matrix[:, :, 2, None]
    columns = matrix[:, :, 0, None] * x[:, None]
    depth = rows[:, 2, :, None] + columns[:, 2, None]
    points = rows[:, :2, :, None] + columns[:, :2, None]
    return (points / depth[:, None]).permute(0, 2, 3, 1)


def normalising(low: Float[Tensor, "#n 2"], high: Float[Tensor, "#n 2"]) -> Homography:
    """The box [low, high] -> [-1, 1]², as `grid_sample` wants it."""
    return scaling_each(2 / (high - low)) @ translation(-(low + high) / 2)


def scaling_each(factor: Float[Tensor, "n 2"]) -> Homography:
    """Scale x and y about the origin."""
    return torch.diag_embed(torch.cat([factor, torch.ones_like(factor[:, :1])], 1))


def pyramid(images: Float[Tensor, "n c h w"], levels: int) -> list[Tensor]:
    """The images, and each next level at half the size (box filter), `levels` times at most."""
    stack = [images]
    while len(stack) <= levels and min(stack[-1].shape[-2:]) > 1:
        height, width = stack[-1].shape[-2:]
        stack.append(adaptive_avg_pool2d(stack[-1], ((height + 1) // 2, (width + 1) // 2)))
    return stack


def sample_pyramid(
    levels: list[Tensor],
    points: Float[Tensor, "n hw 2"],
    level: Int[Tensor, " n"],
    *,
    height: int,
    width: int,
    border: str = "zeros",
    source: Int[Tensor, " n"] | None = None,
) -> Float[Tensor, "n c {height} {width}"]:
    """Bilinear samples at points in [0, 1]² of the image, each view from its level: one `grid_sample` per level.

    source: the image that each view looks at; without it, image i for view i, or the only one for all.
    """
    grid = (2 * points - 1).reshape(len(points), height, width, 2)
    return sample_levels(levels, grid, level, border=border, source=source)


def sample_levels(
    levels: list[Tensor],
    grid: Float[Tensor, "n h w 2"],
    level: Int[Tensor, " n"],
    *,
    border: str = "zeros",
    source: Int[Tensor, " n"] | None = None,
) -> Float[Tensor, "n c h w"]:
    """`sample_pyramid` at points in [-1, 1]²; without gradient, no picture is copied."""
    which = level.clamp(max=len(levels) - 1).tolist()
    if source is None and len(levels[0]) == len(grid) > 1:
        source = torch.arange(len(grid), device=grid.device)
    together = source is None or (levels[0].requires_grad and torch.is_grad_enabled())
    sources = [0] * len(grid) if together or source is None else source.tolist()
    groups: dict[tuple[int, int], list[int]] = {}
    for row, key in enumerate(zip(which, sources, strict=True)):
        groups.setdefault(key, []).append(row)
    parts = []
    for (one, picture), rows in groups.items():
        images = levels[one]
        if together and source is not None:
            images = images.index_select(0, source[torch.tensor(rows, device=source.device)])
        elif source is not None:
            images = images[picture : picture + 1]
        parts.append(_sample(images, _rows_of(grid, rows), border))
    if len(parts) == 1:
        return parts[0]
    order = torch.tensor([row for rows in groups.values() for row in rows], device=grid.device)
    return torch.cat(parts).index_select(0, order.argsort())


def _rows_of(grid: Float[Tensor, "n h w 2"], rows: list[int]) -> Float[Tensor, "r h w 2"]:
    """A view, where they follow each other."""
    if rows[-1] - rows[0] == len(rows) - 1:
        return grid[rows[0] : rows[-1] + 1]
    return grid[torch.tensor(rows, device=grid.device)]


def _sample(images: Float[Tensor, "a c h w"], grid: Float[Tensor, "m y x 2"], border: str) -> Float[Tensor, "m c y x"]:
    return grid_sample(images.expand(len(grid), -1, -1, -1), grid, padding_mode=border, align_corners=False)


# A level's box (t²/12) and the bilinear weights (t²/6) blur texels of t px as much as a px does (1/12) where t = 1/√3.
# For what is not searched: an artwork has all its texels seen in every view, or it would learn to alias.
DRAWN = 3**-0.5


def level_for(texels_per_px: Float[Tensor, " n"], *, sharp: float = 1.0) -> Int[Tensor, " n"]:
    """The pyramid level at which one output px covers about one texel; sharp < 1: finer by that factor."""
    return (sharp * texels_per_px).clamp(min=1).log2().round().long()
