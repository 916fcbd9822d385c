"""Stage 4: where the camera stands. Everything here is one homography per view."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from physadv.errors import UserError
from physadv.transforms.base import Params, Range, between, check_spans
from physadv.transforms.warp import Homography, pinhole, scaling, translation

# A photographed sign is turned as if it stood this many times its own width away: 80 px wide at 1,000 px focal length.
_WIDTHS_AWAY = 12.0


@dataclass(frozen=True)
class Pinhole:
    """A pinhole camera in metres and degrees (staged signs): distance is log-uniform, the angles uniform."""

    dims: ClassVar[int] = 5
    distance_m: Range = (5.0, 5.0)
    yaw_deg: Range = (0.0, 0.0)
    pitch_deg: Range = (0.0, 0.0)
    roll_deg: Range = (0.0, 0.0)
    focal_px: Range = (1500.0, 1500.0)

    def __post_init__(self) -> None:
        turn = {"yaw_deg": (-80, 80), "pitch_deg": (-80, 80), "roll_deg": (-180, 180)}
        check_spans(self, distance_m=(0.2, 500), focal_px=(50, 20000), **turn)

    def sample(self, u: Float[Tensor, "n 5"]) -> Params:
        low, high = self.distance_m
        return {
            "distance_m": low * (high / low) ** u[:, 0],
            "yaw_deg": between(u[:, 1], self.yaw_deg),
            "pitch_deg": between(u[:, 2], self.pitch_deg),
            "roll_deg": between(u[:, 3], self.roll_deg),
            "focal_px": between(u[:, 4], self.focal_px),
        }

    def homography(self, params: Params, size_mm: Float[Tensor, "n 2"]) -> Homography:
        """Surface mm -> sensor px. UserError: the sign would reach behind the camera."""
        if bool((params["distance_m"] * 1000 <= size_mm.norm(dim=1) / 2).any()):
            raise UserError("A camera of this world would touch the sign; raise distance_m under view: pinhole.")
        return pinhole(**params) @ translation(-size_mm / 2)


@dataclass(frozen=True)
class Relative:
    """A change about the pose that a photographed sign already has; beyond the photograph's edge it continues mirrored.

    The photograph is turned as a plane about the sign's centre. zoom > 1 moves the camera away: the sign keeps its
    place in the classifier's crop and loses that factor in resolution.
    """

    dims: ClassVar[int] = 4
    yaw_deg: Range = (0.0, 0.0)
    pitch_deg: Range = (0.0, 0.0)
    roll_deg: Range = (0.0, 0.0)
    zoom: Range = (1.0, 1.0)

    def __post_init__(self) -> None:
        turn = {"yaw_deg": (-80, 80), "pitch_deg": (-80, 80), "roll_deg": (-180, 180)}
        check_spans(self, zoom=(1, 20), **turn)

    def sample(self, u: Float[Tensor, "n 4"]) -> Params:
        return {
            "yaw_deg": between(u[:, 0], self.yaw_deg),
            "pitch_deg": between(u[:, 1], self.pitch_deg),
            "roll_deg": between(u[:, 2], self.roll_deg),
            "zoom": between(u[:, 3], self.zoom),
        }

    def homography(self, params: Params, centre_px: Float[Tensor, "n 2"], width_px: Float[Tensor, " n"]) -> Homography:
        """Photograph px -> photograph px of the moved camera."""
        ones = torch.ones_like(width_px)
        away_m = ones * _WIDTHS_AWAY
        turned = pinhole(away_m, params["yaw_deg"], params["pitch_deg"], params["roll_deg"], 1000 * away_m)
        unit = scaling(1000 / width_px)  # one sign width = one metre
        return translation(centre_px) @ unit.inverse() @ turned @ unit @ translation(-centre_px)


@dataclass(frozen=True)
class Box:
    """How a detector's box misses the sign: shifted by a share of its side, larger or smaller by exp(±scale)."""

    dims: ClassVar[int] = 3
    shift: float = 0.0
    scale: float = 0.0

    def __post_init__(self) -> None:
        check_spans(self, shift=(0, 0.5), scale=(0, 0.5))

    def sample(self, u: Float[Tensor, "n 3"]) -> Params:
        return {"jitter": (2 * u - 1) * torch.tensor([self.shift, self.shift, self.scale])}


@dataclass(frozen=True)
class Backdrop:
    """What stands behind a staged sign: a square cut from one of the backgrounds, `crop` of its side wide."""

    dims: ClassVar[int] = 4
    crop: Range = (0.3, 0.8)

    def __post_init__(self) -> None:
        check_spans(self, crop=(0.02, 1))

    def sample(self, u: Float[Tensor, "n 4"]) -> Params:
        crop = between(u[:, 1], self.crop)
        return {"which": u[:, 0], "crop": crop, "corner": u[:, 2:4] * (1 - crop)[:, None]}
