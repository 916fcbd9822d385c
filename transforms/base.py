"""What a transform is: uniforms -> parameters -> a pure function of the image.

`sample` is an inverse CDF, so a transform holds no randomness: World hands every view its own row of uniforms. Each
transform is of a kind by what it does to light or place. World fuses all of a kind into one operation; `apply` performs
a transform alone, which is what the tests compare with and what others can use as an augmentation.
"""

from dataclasses import fields
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from physadv.transforms.colour import to_linear, to_srgb
from physadv.transforms.optics import blur_matrices, separable

Params = dict[str, Tensor]
Range = tuple[float, float]


@runtime_checkable
class Transform(Protocol):
    """A distribution of differentiable maps. All but those of the view stage also have `apply(images, params)`."""

    dims: ClassVar[int]

    def sample(self, u: Float[Tensor, "n dims"]) -> Params: ...


def between(u: Float[Tensor, "*n"], span: Range) -> Float[Tensor, "*n"]:
    """Uniform on [low, high]; exactly `low` where the span is a point."""
    return span[0] + (span[1] - span[0]) * u


def happens(u: Float[Tensor, " n"], probability: float) -> Float[Tensor, " n"]:
    """1 with the given probability, else 0."""
    return (u < probability).to(u)


def check_spans(transform: Any, **limits: Range) -> None:
    """Raise ValueError unless every range field is ordered and inside its physical limits."""
    for field in fields(transform):
        value = getattr(transform, field.name)
        if field.default == ():  # a list, which its transform checks
            continue
        low, high = value if isinstance(value, tuple) else (value, value)
        least, most = limits.get(
            field.name, (0.0, 1.0) if field.name == "probability" else (-float("inf"), float("inf"))
        )
        if not low <= high:
            raise ValueError(f"{field.name}: {low} is above {high}; write the smaller one first")
        if low < least or high > most:
            raise ValueError(f"{field.name}: {low}..{high} leaves the physical range {least}..{most}")


class Colour(Transform):
    """Light scaled and mixed per pixel: linear -> matrix · linear + offset."""

    def affine(self, params: Params) -> tuple[Float[Tensor, "n 3 3"], Float[Tensor, "n 3"]]:
        raise NotImplementedError

    def apply(self, images: Float[Tensor, "n 3 h w"], params: Params) -> Float[Tensor, "n 3 h w"]:
        matrix, offset = self.affine(params)
        light = torch.einsum("nij,njhw->nihw", matrix, to_linear(images)) + offset[:, :, None, None]
        return to_srgb(light.clamp(0, 1))


class Field(Transform):
    """Light that varies over the frame: linear -> gain(x, y) · linear + glow(x, y). glows: False where glow is 0."""

    glows: ClassVar[bool] = True

    def acts(self, params: Params) -> Bool[Tensor, " n"]:
        """Where it does anything at all: elsewhere gain is 1 and glow 0, and nothing is computed."""
        first = next(iter(params.values()))
        return torch.ones(len(first), dtype=torch.bool, device=first.device)

    def fields(
        self, params: Params, height: int, width: int
    ) -> tuple[Float[Tensor, "n 1 h w"], Float[Tensor, "n #c h w"]]:
        raise NotImplementedError

    def apply(self, images: Float[Tensor, "n 3 h w"], params: Params) -> Float[Tensor, "n 3 h w"]:
        gain, glow = self.fields(params, *images.shape[-2:])
        return to_srgb((gain * to_linear(images) + glow).clamp(0, 1))


class Optics(Transform):
    """Blur: adds variance and shutter length per axis, in sensor px."""

    def spread(self, params: Params) -> Float[Tensor, "n 4"]:
        """Variance along x and y, then shutter length along x and y."""
        raise NotImplementedError

    def apply(self, images: Float[Tensor, "n 3 h w"], params: Params) -> Float[Tensor, "n 3 h w"]:
        spread = self.spread(params)
        return to_srgb(separable(to_linear(images), *blur_matrices(spread, *images.shape[-2:])))
