"""Norm balls round the photograph itself: the digital threats that the physical ones are compared with."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from physadv.errors import UserError
from physadv.scenes.base import Scenes, floats
from physadv.threats.printed import Printed
from physadv.threats.sets import FeasibleSet, L2Ball, LinfBall

_TOLERANCE_PX = 0.05


@dataclass(frozen=True)
class Linf:
    """|δ|∞ ≤ epsilon, in units of the [0, 1] image."""

    epsilon: float

    @property
    def name(self) -> str:
        return f"linf:{self.epsilon:.4g}"

    def resolve(self, scenes: Scenes, *, resolution_px: int, seed: int) -> Printed:
        """On the photograph's own raster. Draws nothing."""
        return _on_photographs(self.name, LinfBall(floats(scenes.images), self.epsilon), scenes)


@dataclass(frozen=True)
class L2:
    """|δ|₂ ≤ radius, the Euclidean norm over all values of one [0, 1] image."""

    radius: float

    @property
    def name(self) -> str:
        return f"l2:{self.radius:g}"

    def resolve(self, scenes: Scenes, *, resolution_px: int, seed: int) -> Printed:
        """On the photograph's own raster. Draws nothing."""
        return _on_photographs(self.name, L2Ball(floats(scenes.images), self.radius), scenes)


def _on_photographs(name: str, ball: FeasibleSet, scenes: Scenes) -> Printed:
    if scenes.staged:
        raise UserError(f"{name} changes a photograph, and staged signs have none: use poster:0.3, or photographs.")
    if scenes.extent_px is not None:
        raise UserError(f"{name} changes a crop of one sign; on whole photographs use a patch or stickers.")
    alpha = torch.ones(1, 1, *scenes.images.shape[2:], device=scenes.images.device)
    return Printed(name, ball, alpha, canvas_place_mm(scenes), per_image=True)


def canvas_place_mm(scenes: Scenes) -> Float[Tensor, "b 4"]:
    """The rectangle on each surface that maps exactly onto the image.

    UserError: a surface seen at an angle, where no upright rectangle does.
    """
    height, width = scenes.images.shape[2:]
    corners_px = torch.tensor([[0.0, 0], [width, height], [width, 0], [0, height]], dtype=torch.float64)
    surface = scenes.surface.double()
    top_left, bottom_right = _map(surface.inverse(), corners_px[:2].to(surface.device)).unbind(1)
    x0, y0, x1, y1 = *top_left.unbind(1), *bottom_right.unbind(1)
    others_mm = torch.stack([torch.stack([x1, y0], 1), torch.stack([x0, y1], 1)], 1)
    miss_px = (_map(surface, others_mm) - corners_px[2:].to(surface.device)).abs().amax((1, 2))
    if not bool((miss_px <= _TOLERANCE_PX).all()):
        row = int((miss_px > _TOLERANCE_PX).nonzero()[0])
        raise UserError(
            f"{scenes.names[row]} shows its sign at an angle, but norm balls need upright signs: use poster:0.3."
        )
    return torch.stack([x0, y0, x1, y1], 1).float()


def _map(homography: Float[Tensor, "b 3 3"], points: Tensor) -> Float[Tensor, "b n 2"]:
    ahead = torch.nn.functional.pad(points, (0, 1), value=1.0) @ homography.mT
    return ahead[..., :2] / ahead[..., 2:]
