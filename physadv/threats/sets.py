"""S: the convex sets that θ may lie in. Each knows its exact Euclidean projection and a random point.

`rows` is the number of artworks the set is made for: 1 serves any number, more is one per scene.
"""

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from physadv.threats.base import Ball

Pixels = Float[Tensor, "a 3 h w"]

INK_DARKEST, INK_LIGHTEST = 33 / 255, 222 / 255
INK_SATURATION = 160 / 255

_BISECTIONS = 30


@runtime_checkable
class FeasibleSet(Protocol):
    @property
    def rows(self) -> int: ...

    @property
    def ball(self) -> Ball | None:
        """The norm ball that it is, if it is one."""
        ...

    def take(self, rows: Int[Tensor, " n"]) -> "FeasibleSet": ...

    def project(self, theta: Pixels) -> Pixels: ...

    def sample(self, count: int, size_px: tuple[int, int], *, generator: torch.Generator) -> Pixels: ...

    def colours(self, theta: Pixels) -> Pixels:
        """The colours that are printed for θ; differentiable, straight through where they are rounded."""
        ...


@dataclass(frozen=True)
class Box:
    """Every colour: [0, 1]³ per pixel."""

    @property
    def rows(self) -> int:
        return 1

    @property
    def ball(self) -> Ball | None:
        return None

    def take(self, rows: Int[Tensor, " n"]) -> "Box":
        return self

    def project(self, theta: Pixels) -> Pixels:
        return theta.clamp(0, 1)

    def sample(self, count: int, size_px: tuple[int, int], *, generator: torch.Generator) -> Pixels:
        return _uniform(count, size_px, generator=generator)

    def colours(self, theta: Pixels) -> Pixels:
        return theta


@dataclass(frozen=True)
class BlackWhite(Box):
    """θ moves freely in the box; printed is the nearer of black and white (gradient: straight through)."""

    def colours(self, theta: Pixels) -> Pixels:
        nearest = (theta.mean(1, keepdim=True) >= 0.5).to(theta.dtype).expand_as(theta)
        return theta + (nearest - theta).detach()


@dataclass(frozen=True)
class Printable(Box):
    """A convex stand-in for an office printer's gamut: [33/255, 222/255]³, and max − min of a pixel ≤ 160/255.

    33 is black ink and 222 plain paper, both typical; the limit on max − min cuts off the saturated corners.
    """

    def project(self, theta: Pixels) -> Pixels:
        """The set is the union over m of the cubes [m, m + s]³; m minimises the distance, a convex function of m."""
        ordered = theta.sort(1).values
        least, middle, most = ordered.unbind(1)
        m = (least + most - INK_SATURATION) / 2
        total = least + middle + most
        m = torch.where(middle < m, (total - INK_SATURATION) / 3, m)
        m = torch.where(middle > m + INK_SATURATION, (total - 2 * INK_SATURATION) / 3, m)
        m = m.clamp(INK_DARKEST, INK_LIGHTEST - INK_SATURATION)[:, None]
        return torch.minimum(torch.maximum(theta, m), m + INK_SATURATION).clamp(INK_DARKEST, INK_LIGHTEST)

    def sample(self, count: int, size_px: tuple[int, int], *, generator: torch.Generator) -> Pixels:
        return self.project(_uniform(count, size_px, generator=generator))


@dataclass(frozen=True)
class LinfBall:
    """{s in [0, 1]: max |s − base| ≤ epsilon}."""

    base: Pixels
    epsilon: float

    @property
    def rows(self) -> int:
        return len(self.base)

    @property
    def ball(self) -> Ball:
        return Ball("linf", self.epsilon)

    def take(self, rows: Int[Tensor, " n"]) -> "LinfBall":
        return replace(self, base=_rows(self.base, rows))

    def project(self, theta: Pixels) -> Pixels:
        lowest, highest = (self.base - self.epsilon).clamp(min=0), (self.base + self.epsilon).clamp(max=1)
        return torch.minimum(torch.maximum(theta, lowest), highest)

    def sample(self, count: int, size_px: tuple[int, int], *, generator: torch.Generator) -> Pixels:
        noise = _uniform(count, size_px, generator=generator).to(self.base.device)
        return self.project(self.base + (2 * noise - 1) * self.epsilon)

    def colours(self, theta: Pixels) -> Pixels:
        return theta


@dataclass(frozen=True)
class L2Ball:
    """{s in [0, 1]: |s − base|₂ ≤ radius}, the norm over all of one image's values."""

    base: Pixels
    radius: float

    @property
    def rows(self) -> int:
        return len(self.base)

    @property
    def ball(self) -> Ball:
        return Ball("l2", self.radius)

    def take(self, rows: Int[Tensor, " n"]) -> "L2Ball":
        return replace(self, base=_rows(self.base, rows))

    def project(self, theta: Pixels) -> Pixels:
        """s = clip(base + c·(theta − base)); c in [0, 1] is the largest inside the ball (Karush-Kuhn-Tucker)."""
        delta = theta - self.base
        inside, outside = torch.zeros_like(delta[:, :1, :1, :1]), torch.ones_like(delta[:, :1, :1, :1])
        inside = torch.where(self._fits(delta, outside), outside, inside)
        for _ in range(_BISECTIONS if bool((inside < 1).any()) else 0):
            between = (inside + outside) / 2
            fits = self._fits(delta, between)
            inside, outside = torch.where(fits, between, inside), torch.where(fits, outside, between)
        return (self.base + inside * delta).clamp(0, 1)

    def _fits(self, delta: Pixels, scale: Float[Tensor, "a 1 1 1"]) -> Tensor:
        moved = (self.base + scale * delta).clamp(0, 1) - self.base
        return moved.double().square().sum((1, 2, 3), keepdim=True).sqrt() <= self.radius

    def sample(self, count: int, size_px: tuple[int, int], *, generator: torch.Generator) -> Pixels:
        direction = torch.randn(count, 3, *size_px, generator=generator, device=generator.device).to(self.base.device)
        return self.project(self.base + direction * self.radius / direction.flatten(1).norm(dim=1)[:, None, None, None])

    def colours(self, theta: Pixels) -> Pixels:
        return theta


PALETTES: dict[str, FeasibleSet] = {"any": Box(), "bw": BlackWhite(), "printable": Printable()}
"""Name on the command line -> what may be printed."""


def _uniform(count: int, size_px: tuple[int, int], *, generator: torch.Generator) -> Pixels:
    return torch.rand(count, 3, *size_px, generator=generator, device=generator.device)


def _rows(base: Pixels, rows: Int[Tensor, " n"]) -> Float[Tensor, "m 3 h w"]:
    return base if len(base) == 1 else base[rows]
