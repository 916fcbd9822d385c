"""Stage 2: how the print sits on the sign."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from kornia.geometry.transform import get_tps_transform
from torch import Tensor

from physadv.transforms.base import Params, Range, between, check_spans
from physadv.transforms.warp import Homography, pixel_grid, project, rotation, sample_pyramid, translation


@dataclass(frozen=True)
class Placement:
    """Registration error: up to shift_mm along each axis, and rotate_deg about the artwork's centre."""

    dims: ClassVar[int] = 3
    shift_mm: float = 0.0
    rotate_deg: Range = (0.0, 0.0)

    def __post_init__(self) -> None:
        check_spans(self, shift_mm=(0, 500), rotate_deg=(-180, 180))

    def sample(self, u: Float[Tensor, "n 3"]) -> Params:
        return {"shift_mm": self.shift_mm * (2 * u[:, :2] - 1), "rotate_deg": between(u[:, 2], self.rotate_deg)}

    def homography(self, params: Params, centre_mm: Float[Tensor, "n 2"]) -> Homography:
        """Surface mm as designed -> surface mm as mounted."""
        turned = translation(centre_mm) @ rotation(params["rotate_deg"]) @ translation(-centre_mm)
        return translation(params["shift_mm"]) @ turned

    def apply(self, images: Float[Tensor, "n 3 h w"], params: Params) -> Float[Tensor, "n 3 h w"]:
        """The image taken as a surface of one mm per px."""
        height, width = images.shape[-2:]
        centre = images.new_tensor([[width / 2, height / 2]]).expand(len(images), 2)
        return _resample(images, lambda points: project(self.homography(params, centre).inverse(), points))


@dataclass(frozen=True)
class Bend:
    """A sheet that does not lie flat: a thin-plate spline moves nine points by up to `share` of the artwork's size."""

    dims: ClassVar[int] = 18
    share: float = 0.0

    def __post_init__(self) -> None:
        check_spans(self, share=(0, 0.08))  # beyond, the spline folds over itself

    def sample(self, u: Float[Tensor, "n 18"]) -> Params:
        axis = torch.tensor([0.0, 0.5, 1.0])
        rest = torch.cartesian_prod(axis, axis).flip(1).expand(len(u), 9, 2)
        moved = rest + self.share * (2 * u.reshape(-1, 9, 2) - 1)
        kernel, affine = get_tps_transform(moved, rest)
        return {"moved": moved, "centres": rest.clone(), "kernel": kernel, "affine": affine}

    def pull(self, params: Params, points: Float[Tensor, "n k 2"]) -> Float[Tensor, "n k 2"]:
        """Points of the bent artwork -> points of the flat one, both in [0, 1]²."""
        if self.share == 0:
            return points
        return _splined(points, params["centres"], params["kernel"], params["affine"])

    def apply(self, images: Float[Tensor, "n 3 h w"], params: Params) -> Float[Tensor, "n 3 h w"]:
        size = images.new_tensor([images.shape[-1], images.shape[-2]])
        return _resample(images, lambda points: self.pull(params, points / size) * size)


def _splined(
    points: Float[Tensor, "n k 2"],
    centres: Float[Tensor, "n 9 2"],
    kernel: Float[Tensor, "n 9 2"],
    affine: Float[Tensor, "n 3 2"],
) -> Float[Tensor, "n k 2"]:
    """affine(p) + Σ kernel_i · ½ r_i² log r_i² (Bookstein 1989, eq. 1); r² = |p|² + |c|² − 2 p·c is one product."""
    x, y = points.unbind(2)
    terms = torch.stack([torch.ones_like(x), x, y, x * x + y * y], 1)
    one = torch.ones_like(centres[:, :, :1])
    apart = torch.cat([centres.square().sum(2, keepdim=True), -2 * centres, one], 2)
    squared = torch.bmm(apart, terms).clamp_(min=1e-30)
    spline = squared.log().mul_(squared)
    return torch.baddbmm(torch.bmm(affine.mT, terms[:, :3]), kernel.mT, spline, alpha=0.5).mT


def _resample(images: Float[Tensor, "n 3 h w"], pull: Callable[[Tensor], Tensor]) -> Float[Tensor, "n 3 h w"]:
    height, width = images.shape[-2:]
    points = pixel_grid(0, 0, height, width, device=images.device).expand(len(images), -1, 2)
    unit = pull(points) / images.new_tensor([width, height])
    flat = torch.zeros(len(images), dtype=torch.long)
    return sample_pyramid([images], unit, flat, height=height, width=width, border="border")
