"""From the light behind the lens to the file: noise, sRGB, tone curve, JPEG. Its slope comes with it, in one pass.

Every step is a function of one value alone, and JPEG passes gradients as they are, so the derivative of the whole is
one number per value: `record` computes it beside the picture where it is wanted, and no graph is kept.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from physadv.transforms.base import Params
from physadv.transforms.camera import Jpeg, Noise, Tone, recode_
from physadv.transforms.colour import KNEE
from physadv.transforms.stages import Draw
from physadv.transforms.texture import noise_cuts

_KINDS = (Noise, Tone, Jpeg)
_AT_KNEE = 12.92 - 1.055 / 2.4 * KNEE ** (1 / 2.4 - 1)  # from the slope of the curve at the knee to that of the line


@dataclass(frozen=True)
class Camera:
    """What the camera of each view does to the light behind its lens. share: of a sensor px's error in a frame px."""

    noises: tuple[Params, ...]
    tones: tuple[Params, ...]
    jpegs: tuple[Params, ...]
    share: Float[Tensor, " n"]

    def take(self, rows: Int[Tensor, " r"] | slice) -> "Camera":
        noises, tones, jpegs = (
            tuple({name: value[rows] for name, value in one.items()} for one in kind)
            for kind in (self.noises, self.tones, self.jpegs)
        )
        return Camera(noises, tones, jpegs, self.share[rows])


def camera_of(draw: Draw, sensor_px: Float[Tensor, " n"]) -> Camera:
    """The camera stage of a draw, less what `exposure` has done to the light already."""
    noises, tones, jpegs = (tuple(draw.of(one) for one in draw.stages.kind(kind, "camera")) for kind in _KINDS)
    return Camera(noises, tones, jpegs, sensor_px.clamp(max=1))


@torch.no_grad()
def record(
    light: Float[Tensor, "n 3 h w"], camera: Camera, top: list[int], left: list[int], *, slope: bool
) -> tuple[Float[Tensor, "n 3 h w"], Float[Tensor, "n 3 h w"] | None]:
    """The picture before JPEG of a window of each frame, and its derivative in the light. `light` is overwritten."""
    for noise in camera.noises:
        _add_noise(light, noise, camera.share, top, left)
    steep = _within(light) if slope else None
    curve = light.clamp(KNEE, 1)
    curved = curve.log().div_(2.4).exp_()
    if steep is not None:
        below = torch.lt(light, KNEE, out=torch.empty_like(light)).mul_(_AT_KNEE)
        steep.mul_(below.addcdiv_(curved, curve, value=1.055 / 2.4))
    picture = light.clamp_(0, KNEE).mul_(12.92).sub_(12.92 * KNEE + 0.055).add_(curved, alpha=1.055)
    for tone in camera.tones:
        picture, steep = _toned(picture, steep, tone)
    return picture, steep


def _add_noise(
    light: Float[Tensor, "n 3 h w"], noise: Params, share: Float[Tensor, " n"], top: list[int], left: list[int]
) -> None:
    """sigma² = shot · light + read², without gradient in the light."""
    shot, read, wide = (value[:, None, None, None] for value in (noise["shot"], noise["read"], share))
    sigma = light.clamp(min=0)
    torch.addcmul((read * wide) ** 2, sigma, shot * wide**2, out=sigma).sqrt_()
    cuts = noise_cuts(noise["place"], top, left, *light.shape[-2:])
    for view, scale, grain in zip(light, sigma, cuts, strict=True):
        view.addcmul_(scale, grain)


def _toned(
    picture: Float[Tensor, "n 3 h w"], steep: Float[Tensor, "n 3 h w"] | None, tone: Params
) -> tuple[Float[Tensor, "n 3 h w"], Float[Tensor, "n 3 h w"] | None]:
    """y + y(1 − y)(γ − c + 2cy) as a polynomial, kept in [0, 1]; and the slope times its own."""
    gamma, contrast = (tone[name][:, None, None, None] for name in ("gamma", "contrast"))
    low, high = gamma - contrast, 2 * contrast
    overshoots = bool((gamma.abs() + contrast.abs() > 1).any())
    factor = torch.addcmul(high - low, picture, -high)
    bent = torch.addcmul(1 + low, factor, picture, out=factor).mul_(picture)
    if steep is not None:
        factor = torch.addcmul(2 * (high - low), picture, -3 * high)
        steep.mul_(torch.addcmul(1 + low, factor, picture, out=factor))
        if overshoots:
            steep.mul_(_within(bent))
    return bent.clamp_(0, 1), steep


def _within(values: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """1 where a value is in [0, 1], else 0: numbers, since a product with truth values costs ten times as much."""
    return torch.eq(values, values.clamp(0, 1), out=torch.empty_like(values))


def filed(picture: Float[Tensor, "n 3 h w"], camera: Camera) -> Float[Tensor, "n 3 h w"]:
    """The picture after JPEG, in its place.

    The file is as fine as the sensor. Shrunk to a k-th of its width, about 1/k of the error is left: 0.46, 0.37, 0.24,
    0.17 in luminance and 0.75, 0.68, 0.49, 0.35 in colour for k of 1.5, 2, 3, 4 (quality 50, signs, 48 px).
    """
    for jpeg in camera.jpegs:
        for one, quality, share in zip(picture.split(1), jpeg["quality"].split(1), camera.share.split(1), strict=True):
            one.lerp_(recode_(one.clone(), quality, share), float(share))
    return picture
