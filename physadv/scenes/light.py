"""The scene's own light: what makes a white sticker dark on a dark photograph."""

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, grid_sample, max_pool2d, pad

from physadv.scenes.base import Faces, floats
from physadv.transforms.colour import luminance, to_linear
from physadv.transforms.warp import project

GAIN = (0.02, 3.0)
BIAS = (0.0, 0.5)
RIM = 0.1  # share of the face left out on each side: boxes and outlines are off by about a pixel there
GRID = 32  # samples across the face
CELL = 4  # of them across a cell: coarse, so that letters a little blurred or out of place average to the same colour
ROUNDS = 6
STIFFNESS = (0.1, 1.0)  # ridge of a channel's gain and bias toward the shared ones: a tint is a gain, rarely a veil
CHUNK = 512

Points = Float[Tensor, "m n"]
Line = tuple[Float[Tensor, "m 1"], Float[Tensor, "m 1"]]  # gain, bias


def fit_light(
    images: Float[Tensor, "b 3 h w"] | UInt8[Tensor, "b 3 h w"],
    surface: Float[Tensor, "b 3 3"],
    faces: Faces,
    face: Int[Tensor, " b"],
    *,
    has_art: Bool[Tensor, " k"],
) -> tuple[Float[Tensor, "b 3"], Float[Tensor, "b 3"]]:
    """Gain and bias per channel with linear photograph = gain * linear reflectance + bias, over each sign's face.

    Robust least squares on the drawn face; a channel in which the face has little contrast keeps close to the gain
    shared by all three. Faces without art: gain = 95th percentile of the sign's luminance / 0.8, bias 0.
    """
    drawn, inner = to_linear(_grid(faces.images[:, :3])), _inside(faces.images[:, 3:])
    lights = []
    for rows in torch.arange(len(images)).split(CHUNK):
        which = face[rows]
        seen = _seen(floats(images[rows]), surface[rows], faces.size_mm[which])
        gain, bias = _fit(*_cells(drawn[which], seen, inner[which]))
        plain = _brightness(seen, inner[which])[:, None].expand(-1, 3).clamp(*GAIN)
        known = has_art[which][:, None]
        lights.append((torch.where(known, gain, plain), torch.where(known, bias, 0.0)))
    gains, biases = zip(*lights, strict=True)
    return torch.cat(gains), torch.cat(biases)


def _grid(values: Float[Tensor, "k c s s"]) -> Float[Tensor, "k c g g"]:
    return adaptive_avg_pool2d(values, GRID)


def _inside(alpha: Float[Tensor, "k 1 s s"]) -> Float[Tensor, "k 1 g g"]:
    """1 where the face is opaque and further than the rim from its outline."""
    reach = round(RIM * alpha.shape[-1])
    outside = pad(1 - alpha, (reach,) * 4, value=1.0)
    return _grid(1 - max_pool2d(outside, 2 * reach + 1, stride=1))


def _seen(
    images: Float[Tensor, "b 3 h w"], surface: Float[Tensor, "b 3 3"], size_mm: Float[Tensor, "b 2"]
) -> Float[Tensor, "b 3 g g"]:
    """Linear light of the photograph on the same grid."""
    steps = (torch.arange(GRID, device=images.device) + 0.5) / GRID
    unit = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1).reshape(1, -1, 2)
    size_px = torch.tensor([images.shape[-1], images.shape[-2]], device=images.device)
    points = (2 * project(surface, unit * size_mm[:, None]) / size_px - 1).unflatten(1, (GRID, GRID))
    return to_linear(grid_sample(images, points, padding_mode="border", align_corners=False))


def _cells(
    drawn: Float[Tensor, "b 3 g g"], seen: Float[Tensor, "b 3 g g"], inner: Float[Tensor, "b 1 g g"]
) -> tuple[Float[Tensor, "b 3 n"], Float[Tensor, "b 3 n"], Float[Tensor, "b n"]]:
    """Mean of both over the inner part of each coarse cell, and the size of that part as weight."""
    weight = avg_pool2d(inner, CELL)
    drawn, seen = (avg_pool2d(values * inner, CELL) / weight.clamp_min(1e-6) for values in (drawn, seen))
    return drawn.flatten(2), seen.flatten(2), weight.flatten(1)


def _fit(
    drawn: Float[Tensor, "b 3 n"], seen: Float[Tensor, "b 3 n"], weight: Float[Tensor, "b n"]
) -> tuple[Float[Tensor, "b 3"], Float[Tensor, "b 3"]]:
    """First one line for all channels, then one per channel tied to it by a ridge; outliers lose their weight."""
    weights = weight[:, None].expand_as(drawn)
    nothing = torch.zeros_like(drawn[:, 0, :1])
    x, y, weights = (values.flatten(1) for values in (drawn, seen, weights))
    shared = _robust_line(x, y, weights, (nothing, nothing), stiffness=(0.0, 1.0))
    x, y, weights = (values.reshape(-1, drawn.shape[2]) for values in (x, y, weights))
    gain, bias = (value.expand(-1, 3).reshape(-1, 1) for value in shared)
    gain, bias = _robust_line(x, y, weights, (gain, bias), stiffness=STIFFNESS)
    return gain.reshape(-1, 3), bias.reshape(-1, 3)


def _robust_line(x: Points, y: Points, weight: Points, prior: Line, *, stiffness: tuple[float, float]) -> Line:
    """argmin over (a, b) of the Geman-McClure error of y - a x - b, plus a ridge toward `prior`; reweighted squares."""
    robust = weight
    for _ in range(ROUNDS):
        gain, bias = _line(x, y, robust, prior, stiffness)
        residual = (y - gain * x - bias).abs()
        scale = 2 * _weighted_mean(residual, weight) + 1e-4  # of all cells, or it would shrink round after round
        robust = weight / (1 + (residual / scale) ** 2) ** 2
    return gain, bias


def _line(x: Points, y: Points, weight: Points, prior: Line, stiffness: tuple[float, float]) -> Line:
    """Weighted ridge regression, solved by its two normal equations, then held in the physical range."""
    stiff_a, stiff_b = stiffness
    xx, xy = _weighted_mean(x * x, weight) + stiff_a, _weighted_mean(x * y, weight) + stiff_a * prior[0]
    mean_x, mean_y = _weighted_mean(x, weight), _weighted_mean(y, weight) + stiff_b * prior[1]
    bias = ((mean_y * xx - mean_x * xy) / ((1 + stiff_b) * xx - mean_x**2).clamp_min(1e-6)).clamp(*BIAS)
    return ((xy - bias * mean_x) / xx.clamp_min(1e-6)).clamp(*GAIN), bias


def _weighted_mean(values: Points, weight: Points) -> Float[Tensor, "m 1"]:
    return (values * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp_min(1e-6)


def _brightness(seen: Float[Tensor, "b 3 g g"], inner: Float[Tensor, "b 1 g g"]) -> Float[Tensor, " b"]:
    """95th percentile of the face's linear luminance over 0.8, the reflectance of white sheeting."""
    inside = luminance(seen).where(inner > 0.5, torch.nan).flatten(1)
    return inside.nanquantile(0.95, dim=1) / 0.8
