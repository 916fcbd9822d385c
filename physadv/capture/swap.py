"""A stage of foretold views as it was measured, in place of the one that the world drew; all else stays as drawn."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from physadv.capture.measure import Measured
from physadv.capture.pose import Plane
from physadv.transforms.base import Colour, Field, Params, Transform
from physadv.transforms.camera import Defocus, Jpeg, Motion, Noise, Sharpen
from physadv.transforms.mount import Bend, Placement
from physadv.transforms.print import Ink
from physadv.transforms.stages import Draw
from physadv.transforms.texture import frame_points
from physadv.transforms.view import Backdrop, Pinhole
from physadv.transforms.warp import Homography

STAGES = ("print", "light", "geometry", "blur")


@dataclass(frozen=True)
class Lit(Colour):
    """linear -> gain · linear + bias, per channel."""

    dims: ClassVar[int] = 0

    def sample(self, u: Float[Tensor, "n 0"]) -> Params:
        return {"gain": torch.ones(len(u), 3), "bias": torch.zeros(len(u), 3)}

    def affine(self, params: Params) -> tuple[Float[Tensor, "n 3 3"], Float[Tensor, "n 3"]]:
        return torch.diag_embed(params["gain"]), params["bias"]


@dataclass(frozen=True)
class Slope(Field):
    """Light that falls off over the frame: 1 + slope · p, p from the middle in shares of the frame."""

    dims: ClassVar[int] = 0

    def sample(self, u: Float[Tensor, "n 0"]) -> Params:
        return {"slope": torch.zeros(len(u), 2)}

    def acts(self, params: Params) -> Bool[Tensor, " n"]:
        return (params["slope"] != 0).any(1)

    def fields(
        self, params: Params, height: int, width: int
    ) -> tuple[Float[Tensor, "n 1 h w"], Float[Tensor, "n #c h w"]]:
        away = frame_points(height, width, device=params["slope"].device)[0] - 0.5
        gain = (1 + torch.einsum("hwk,nk->nhw", away, params["slope"])).clamp(min=0)[:, None]
        return gain, torch.zeros_like(gain)


@dataclass(frozen=True)
class Placed(Pinhole):
    """A camera known by its homography, off the axis or not."""

    dims: ClassVar[int] = 0

    def sample(self, u: Float[Tensor, "n 0"]) -> Params:
        return {"matrix": torch.eye(3).expand(len(u), 3, 3)}

    def homography(self, params: Params, size_mm: Float[Tensor, "n 2"]) -> Homography:
        return params["matrix"]


@dataclass(frozen=True)
class Found:
    """All that is known of a photograph. response: of the printer, measured over all photographs of the artwork."""

    measured: Measured
    plane: Plane
    response: Float[Tensor, "3 11"] | None

    def knows(self, stage: str) -> bool:
        """Whether the photograph says anything about a stage."""
        known = {"print": self.response, "light": self.measured.light, "blur": self.measured.blur_px}
        return stage == "geometry" or known[stage] is not None


def swap(draw: Draw, stage: str, found: Found) -> Draw:
    """The same draw with that stage as measured; one that nothing is known about stays as it is."""
    return _SWAPS[stage](draw, found) if found.knows(stage) else draw


def _print(draw: Draw, found: Found) -> Draw:
    assert found.response is not None
    return _put(draw, "print", (Ink,), {Ink(): {"response": found.response}})


def _light(draw: Draw, found: Found) -> Draw:
    """Everything that changes a px by its own light alone: weather, white balance and tone curve too."""
    light = found.measured.light
    camera = tuple(one for one in draw.stages.camera if isinstance(one, Defocus | Motion | Noise | Sharpen | Jpeg))
    left = replace(draw.stages, light=(), camera=camera)
    families = {type(one) for one in left} | {Backdrop}
    kept = {family: params for family, params in draw.params.items() if family in families}
    lit: dict[Transform, Params] = {
        Lit(): {"gain": light.gain, "bias": light.bias},
        Slope(): {"slope": light.slope},
    }
    return _put(replace(draw, stages=left, params=kept), "light", (), lit)


def _geometry(draw: Draw, found: Found) -> Draw:
    """The measured homography, and the artwork where it was found on the face, flat and upright."""
    matrix = torch.from_numpy(found.plane.matrix).float()
    seen = _put(draw, "view", (Pinhole,), {Placed(): {"matrix": matrix}})
    shift_mm = torch.tensor(found.measured.shift_mm or (0.0, 0.0))
    return _put(
        seen, "mount", (Placement, Bend), {Placement(): {"shift_mm": shift_mm, "rotate_deg": torch.tensor(0.0)}}
    )


def _blur(draw: Draw, found: Found) -> Draw:
    blur_px = torch.tensor(found.measured.blur_px)
    sharpened = {"amount": blur_px.clamp(max=0) ** 2, "radius_px": torch.tensor(1.0)}
    new: dict[Transform, Params] = {Defocus(): {"sigma_px": blur_px.clamp(min=0)}, Sharpen(): sharpened}
    return _put(draw, "camera", (Defocus, Motion, Sharpen), new)


def _put(draw: Draw, stage: str, instead: tuple[type, ...], new: dict[Transform, Params]) -> Draw:
    """Transforms with the same parameters in every view, first in their stage, in place of those families."""
    kept = tuple(one for one in getattr(draw.stages, stage) if not isinstance(one, instead))
    params = {family: values for family, values in draw.params.items() if not issubclass(family, instead)}
    alike = {
        type(one): {name: value.expand(len(draw), *value.shape) for name, value in values.items()}
        for one, values in new.items()
    }
    stages = replace(draw.stages, **{stage: (*new, *kept)})
    return replace(draw, stages=stages, params=params | alike)


_SWAPS: dict[str, Callable[[Draw, Found], Draw]] = {
    "print": _print,
    "light": _light,
    "geometry": _geometry,
    "blur": _blur,
}
