"""Stage 5: what the camera does to the light that reaches it."""

from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from physadv.transforms.base import Colour, Optics, Params, Range, between, check_spans
from physadv.transforms.colour import saturation_matrix, to_linear, to_srgb
from physadv.transforms.optics import blur_matrices, separable
from physadv.transforms.texture import white_noise

_SWAPPED = [0, 2, 1, 1, 2, 0]  # OpenCV's images begin with blue


@dataclass(frozen=True)
class Defocus(Optics):
    """A lens out of focus: Gaussian of sigma_px sensor px."""

    dims: ClassVar[int] = 1
    sigma_px: Range = (0.0, 0.0)

    def __post_init__(self) -> None:
        check_spans(self, sigma_px=(0, 50))

    def sample(self, u: Float[Tensor, "n 1"]) -> Params:
        return {"sigma_px": between(u[:, 0], self.sigma_px)}

    def spread(self, params: Params) -> Float[Tensor, "n 4"]:
        variance = params["sigma_px"] ** 2
        return torch.stack([variance, variance, 0 * variance, 0 * variance], 1)


@dataclass(frozen=True)
class Motion(Optics):
    """Movement while the shutter is open, in sensor px: along x from driving past, along y from the road."""

    dims: ClassVar[int] = 2
    x_px: Range = (0.0, 0.0)
    y_px: Range = (0.0, 0.0)

    def __post_init__(self) -> None:
        check_spans(self, x_px=(0, 100), y_px=(0, 100))

    def sample(self, u: Float[Tensor, "n 2"]) -> Params:
        return {"x_px": between(u[:, 0], self.x_px), "y_px": between(u[:, 1], self.y_px)}

    def spread(self, params: Params) -> Float[Tensor, "n 4"]:
        x, y = params["x_px"], params["y_px"]
        return torch.stack([0 * x, 0 * y, x, y], 1)


@dataclass(frozen=True)
class Sharpen:
    """The camera's unsharp mask: light + amount · (light − Gaussian of radius_px sensor px), along each axis in turn.

    Cameras do it to the encoded picture; in linear light it is part of the blur. Photographs have theirs already.
    """

    dims: ClassVar[int] = 2
    amount: Range = (0.0, 0.0)
    radius_px: Range = (1.0, 1.0)

    def __post_init__(self) -> None:
        check_spans(self, amount=(0, 5), radius_px=(0.1, 10))

    def sample(self, u: Float[Tensor, "n 2"]) -> Params:
        return {"amount": between(u[:, 0], self.amount), "radius_px": between(u[:, 1], self.radius_px)}

    def halo(self, params: Params, sensor_px: Float[Tensor, " n"]) -> Float[Tensor, "n 2"]:
        """Amount, and variance in px of a frame that has so many to a sensor px."""
        return torch.stack([params["amount"], (params["radius_px"] * sensor_px) ** 2], 1)

    def apply(self, images: Float[Tensor, "n 3 h w"], params: Params) -> Float[Tensor, "n 3 h w"]:
        halo = self.halo(params, torch.ones(len(images), device=images.device))
        matrices = blur_matrices(halo.new_zeros(len(images), 4), *images.shape[-2:], halo=halo)
        return to_srgb(separable(to_linear(images), *matrices).clamp(0, 1))


@dataclass(frozen=True)
class Balance(Colour):
    """White balance error per channel in stops, and saturation."""

    dims: ClassVar[int] = 4
    stops: float = 0.0
    saturation: Range = (1.0, 1.0)

    def __post_init__(self) -> None:
        check_spans(self, stops=(0, 2), saturation=(0, 3))

    def sample(self, u: Float[Tensor, "n 4"]) -> Params:
        gain = torch.exp2(self.stops * (2 * u[:, :3] - 1))
        return {"matrix": saturation_matrix(between(u[:, 3], self.saturation)) @ torch.diag_embed(gain)}

    def affine(self, params: Params) -> tuple[Float[Tensor, "n 3 3"], Float[Tensor, "n 3"]]:
        return params["matrix"], params["matrix"].new_zeros(len(params["matrix"]), 3)


@dataclass(frozen=True)
class Noise:
    """Photon and read noise of the sensor: sigma² = shot · light + read², in linear light, per sensor px."""

    dims: ClassVar[int] = 4
    shot: Range = (0.0, 0.0)
    read: Range = (0.0, 0.0)

    def __post_init__(self) -> None:
        check_spans(self, shot=(0, 0.1), read=(0, 0.3))

    def sample(self, u: Float[Tensor, "n 4"]) -> Params:
        return {"shot": between(u[:, 0], self.shot), "read": between(u[:, 1], self.read), "place": u[:, 2:4]}

    def add(
        self, light: Float[Tensor, "n 3 h w"], params: Params, share: Float[Tensor, " n"]
    ) -> Float[Tensor, "n 3 h w"]:
        """Noise on linear light; share: sigma per output px relative to sensor px (averaging makes it smaller)."""
        wide = [params[name][:, None, None, None] for name in ("shot", "read")]
        sigma = (wide[0] * light.detach().clamp(min=0) + wide[1] ** 2).sqrt() * share[:, None, None, None]
        return light + sigma * white_noise(params["place"], *light.shape[-2:])

    def apply(self, images: Float[Tensor, "n 3 h w"], params: Params) -> Float[Tensor, "n 3 h w"]:
        return to_srgb(self.add(to_linear(images), params, torch.ones(len(images), device=images.device)).clamp(0, 1))


@dataclass(frozen=True)
class Tone:
    """The camera's rendering of encoded y: gamma·y(1−y) lifts or lowers midtones, contrast·y(1−y)(2y−1) bends an S."""

    dims: ClassVar[int] = 2
    gamma: Range = (0.0, 0.0)
    contrast: Range = (0.0, 0.0)

    def __post_init__(self) -> None:
        check_spans(self, gamma=(-0.5, 0.5), contrast=(-0.9, 0.9))

    def sample(self, u: Float[Tensor, "n 2"]) -> Params:
        return {"gamma": between(u[:, 0], self.gamma), "contrast": between(u[:, 1], self.contrast)}

    def apply(self, images: Float[Tensor, "n 3 h w"], params: Params) -> Float[Tensor, "n 3 h w"]:
        gamma, contrast = (params[name][:, None, None, None] for name in ("gamma", "contrast"))
        curved = images + images * (1 - images) * (gamma - contrast + 2 * contrast * images)
        return curved.clamp(0, 1)  # with |gamma| + contrast > 1 it overshoots next to black or white


@dataclass(frozen=True)
class Jpeg:
    """JPEG compression: the true value, and the gradient of the identity (straight-through; Bengio 2013)."""

    dims: ClassVar[int] = 1
    quality: Range = (100.0, 100.0)

    def __post_init__(self) -> None:
        check_spans(self, quality=(5, 100))

    def sample(self, u: Float[Tensor, "n 1"]) -> Params:
        return {"quality": between(u[:, 0], self.quality).round()}

    def apply(self, images: Float[Tensor, "n 3 h w"], params: Params) -> Float[Tensor, "n 3 h w"]:
        value = recode_(images.detach().clamp(0, 1), params["quality"])
        return images + (value - images.detach())


_FINE = 0.71  # px of a frame per px of the file: at half of it, colour is whole; this is the middle between 1/2 and 1


@torch.no_grad()
def recode_(
    images: Float[Tensor, "n 3 h w"], quality: Float[Tensor, " n"], share: Float[Tensor, " n"] | None = None
) -> Float[Tensor, "n 3 h w"]:
    """Images in [0, 1], replaced by what a JPEG of each quality holds of them.

    share: px of the image per px of the file. A file stores colour at half its resolution: all of the image's where
    the file is twice as fine, half of it where both are alike, and between the two whichever is nearer (1/√2).
    """
    fine = [False] * len(images) if share is None else (share <= _FINE).tolist()
    height, width = images.shape[-2:]
    blue_first = np.empty((height, width, 3), np.uint8)
    for image, percent, whole in zip(images, quality.tolist(), fine, strict=True):
        planes = image.cpu().float().contiguous().numpy().reshape(-1, width)
        coded = cv2.convertScaleAbs(planes, alpha=255).reshape(3, height, width)  # rounds to even, as torch does
        cv2.mixChannels([*coded], [blue_first], _SWAPPED)
        cv2.mixChannels([_recode(blue_first, int(percent), whole=whole)], [*coded], _SWAPPED)
        image.copy_(torch.from_numpy(coded)).div_(255)
    return images


def _recode(pixels: np.ndarray, quality: int, *, whole: bool) -> np.ndarray:
    """whole: colour at the resolution of light."""
    colour = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444 if whole else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420
    how = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, colour]
    done, data = cv2.imencode(".jpg", pixels, how)
    if not done:
        raise RuntimeError("OpenCV could not encode a JPEG")
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))
