"""A cast shadow: a triangle on the face that gets less light (Zhong et al. 2022, "Shadows can be dangerous")."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from physadv.errors import UserError
from physadv.scenes.base import Scenes
from physadv.threats.base import Artwork, Theta
from physadv.threats.masks import coverage
from physadv.threats.sets import Box, Pixels
from physadv.threats.sought import Sought

_FINE = 4  # samples along each side of a pixel of the shape
_SPREAD = (-0.3, 1.3)  # corners of the triangle, in sides of the face's box


@dataclass(frozen=True)
class Dark(Box):
    """No colours to choose: what covers the face is the absence of light."""

    def project(self, theta: Pixels) -> Pixels:
        return torch.zeros_like(theta)

    def sample(self, count: int, size_px: tuple[int, int], *, generator: torch.Generator) -> Pixels:
        return torch.zeros(count, 3, *size_px)


@dataclass(frozen=True)
class Shadow:
    """light: the share of the (linear) light that is left inside the triangle."""

    light: float

    @property
    def name(self) -> str:
        return f"shadow:{self.light:g}"

    def resolve(self, scenes: Scenes, *, resolution_px: int, seed: int) -> "CastShadow":
        """UserError: whole photographs, on which one artwork is for all signs."""
        if scenes.photograph is not None:
            raise UserError(f"{self.name} is another one on each sign; on whole photographs use a patch or stickers.")
        size_mm = scenes.faces.size_mm[scenes.face]
        place_mm = torch.cat([torch.zeros_like(size_mm), size_mm], 1)
        alpha = torch.zeros(len(scenes), 1, resolution_px, resolution_px, device=size_mm.device)
        opaque = [coverage(face[3].cpu().numpy(), (resolution_px, resolution_px)) for face in scenes.faces.images]
        threat = CastShadow(
            self.name,
            Dark(),
            alpha,
            place_mm,
            face=scenes.face,
            opacity=1 - self.light,
            opaque=torch.stack(opaque).to(size_mm.device),
        )
        first = threat.candidates(1, seed=seed)[0]
        assert isinstance(first, CastShadow)
        return first


@dataclass(frozen=True, kw_only=True)
class CastShadow(Sought):
    """Half-covering blackness in a triangle: linear light · (1 − opacity) there. No ink, and nothing beside the face.

    opaque: the share of each of its pixels that lies on each face.
    """

    opacity: float
    opaque: Float[Tensor, "k 1 s s"]

    @property
    def still(self) -> bool:
        return True

    def candidates(self, count: int, *, seed: int) -> list[Sought]:
        """Triangles with corners drawn evenly in and round the face's box."""
        generator = torch.Generator().manual_seed(seed)
        low, high = _SPREAD
        corners = low + (high - low) * torch.rand(count, len(self.face), 3, 2, generator=generator)
        side_px, most = self.alpha.shape[-1], self.opacity * self.opaque[self.face]
        return [replace(self, alpha=most * triangles(one.to(self.alpha.device), side_px)) for one in corners]

    def artwork(self, theta: Theta) -> Artwork:
        """The darkness itself, which no printer lightens and no mount moves."""
        return replace(super().artwork(theta), cast=True)


def triangles(corners: Float[Tensor, "n 3 2"], side_px: int) -> Float[Tensor, "n 1 s s"]:
    """The share of each pixel inside; corners (x, y) in sides of the square, in either order round."""
    axis = (torch.arange(side_px * _FINE, device=corners.device) + 0.5) / (side_px * _FINE)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    ahead = corners.roll(-1, 1) - corners
    across = ahead[..., 0, None, None] * (y - corners[..., 1, None, None]) - ahead[..., 1, None, None] * (
        x - corners[..., 0, None, None]
    )
    inside = (across > 0).all(1) | (across < 0).all(1)
    return torch.nn.functional.avg_pool2d(inside[:, None].float(), _FINE)
