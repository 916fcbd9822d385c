"""Stage 3: what falls on the sign. Light adds up, so everything here is linear in linear RGB."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from physadv.transforms.base import Colour, Field, Params, Range, between, check_spans, happens
from physadv.transforms.colour import planckian_gain
from physadv.transforms.texture import frame_points, soft_step, texture


@dataclass(frozen=True)
class Exposure(Colour):
    """Brightness in stops: linear · 2^stops; a photograph, exposed already, changes by `photographed` stops."""

    dims: ClassVar[int] = 1
    stops: Range = (0.0, 0.0)
    photographed: Range = (0.0, 0.0)

    def __post_init__(self) -> None:
        check_spans(self, stops=(-8, 8), photographed=(-8, 8))

    def sample(self, u: Float[Tensor, "n 1"]) -> Params:
        stops, photographed = (between(u[:, 0], span) for span in (self.stops, self.photographed))
        return {"gain": torch.exp2(stops), "photographed": torch.exp2(photographed)}

    def affine(self, params: Params) -> tuple[Float[Tensor, "n 3 3"], Float[Tensor, "n 3"]]:
        gain = params["gain"]
        return gain[:, None, None] * torch.eye(3, device=gain.device), gain.new_zeros(len(gain), 3)


@dataclass(frozen=True)
class Temperature(Colour):
    """Colour of the light on the Planckian locus, camera balanced at 6,500 K; `photographed` as for Exposure."""

    dims: ClassVar[int] = 1
    kelvin: Range = (6500.0, 6500.0)
    photographed: Range = (6500.0, 6500.0)

    def __post_init__(self) -> None:
        check_spans(self, kelvin=(3000, 15000), photographed=(3000, 15000))

    def sample(self, u: Float[Tensor, "n 1"]) -> Params:
        return {"gain": _planckian(u[:, 0], self.kelvin), "photographed": _planckian(u[:, 0], self.photographed)}

    def affine(self, params: Params) -> tuple[Float[Tensor, "n 3 3"], Float[Tensor, "n 3"]]:
        return torch.diag_embed(params["gain"]), torch.zeros_like(params["gain"])


@dataclass(frozen=True)
class Veil(Colour):
    """Stray light and surface gloss: a share of white light added to everything."""

    dims: ClassVar[int] = 1
    share: Range = (0.0, 0.0)

    def __post_init__(self) -> None:
        check_spans(self, share=(0, 0.5))

    def sample(self, u: Float[Tensor, "n 1"]) -> Params:
        return {"share": between(u[:, 0], self.share)}

    def affine(self, params: Params) -> tuple[Float[Tensor, "n 3 3"], Float[Tensor, "n 3"]]:
        share = params["share"]
        matrix = (1 - share)[:, None, None] * torch.eye(3, device=share.device)
        return matrix, share[:, None].expand(-1, 3)


@dataclass(frozen=True)
class Gradient(Field):
    """Light that falls off across the frame, linear along a random direction: 1 ± strength at the edges."""

    glows: ClassVar[bool] = False
    dims: ClassVar[int] = 2
    strength: Range = (0.0, 0.0)

    def __post_init__(self) -> None:
        check_spans(self, strength=(0, 0.95))

    def sample(self, u: Float[Tensor, "n 2"]) -> Params:
        return {"strength": between(u[:, 0], self.strength), "angle": 2 * torch.pi * u[:, 1]}

    def acts(self, params: Params) -> Bool[Tensor, " n"]:
        return params["strength"] > 0

    def fields(
        self, params: Params, height: int, width: int
    ) -> tuple[Float[Tensor, "n 1 h w"], Float[Tensor, "n #c h w"]]:
        along = _along(params["angle"], height, width)
        gain = (1 + 2 * params["strength"][:, None, None, None] * along).clamp(
            min=0
        )  # the corners lie beyond the edges
        return gain, torch.zeros_like(gain)


@dataclass(frozen=True)
class Shadow(Field):
    """A cast shadow: a soft straight edge (a pole, a house) or dappled (leaves); depth is the light that it takes."""

    glows: ClassVar[bool] = False
    dims: ClassVar[int] = 8
    probability: float = 0.0
    depth: Range = (0.3, 0.7)
    softness: Range = (0.02, 0.2)
    dappled: float = 0.4

    def __post_init__(self) -> None:
        check_spans(self, depth=(0, 1), softness=(0.001, 1), dappled=(0, 1))

    def sample(self, u: Float[Tensor, "n 8"]) -> Params:
        return {
            "depth": happens(u[:, 0], self.probability) * between(u[:, 1], self.depth),
            "softness": between(u[:, 2], self.softness),
            "angle": 2 * torch.pi * u[:, 3],
            "offset": 0.7 * (u[:, 4] - 0.5),
            "dappled": happens(u[:, 5], self.dappled),
            "place": u[:, 6:8],
        }

    def acts(self, params: Params) -> Bool[Tensor, " n"]:
        return params["depth"] > 0

    def fields(
        self, params: Params, height: int, width: int
    ) -> tuple[Float[Tensor, "n 1 h w"], Float[Tensor, "n #c h w"]]:
        softness = params["softness"][:, None, None, None]
        along, dappled = _along(params["angle"], height, width), params["dappled"] > 0
        shade = soft_step(along - params["offset"][:, None, None, None], softness)
        if bool(dappled.any()):
            leafy = {name: value[dappled] for name, value in params.items()}
            leaves = texture(leafy["place"], height, width, scale=torch.full_like(leafy["depth"], 0.25))
            shade[dappled] = soft_step(leaves, 3 * softness[dappled])
        gain = 1 - params["depth"][:, None, None, None] * shade
        return gain, torch.zeros_like(gain)


@dataclass(frozen=True)
class Glare(Field):
    """A highlight or lens flare: a Gaussian spot of light, `strength` at its centre, radius as share of the frame."""

    dims: ClassVar[int] = 5
    probability: float = 0.0
    strength: Range = (0.1, 0.4)
    radius: Range = (0.1, 0.4)

    def __post_init__(self) -> None:
        check_spans(self, strength=(0, 4), radius=(0.01, 2))

    def sample(self, u: Float[Tensor, "n 5"]) -> Params:
        strength = happens(u[:, 0], self.probability) * between(u[:, 1], self.strength)
        return {"strength": strength, "radius": between(u[:, 2], self.radius), "centre": u[:, 3:5]}

    def acts(self, params: Params) -> Bool[Tensor, " n"]:
        return params["strength"] > 0

    def fields(
        self, params: Params, height: int, width: int
    ) -> tuple[Float[Tensor, "n 1 h w"], Float[Tensor, "n #c h w"]]:
        away = frame_points(height, width, device=params["centre"].device) - params["centre"][:, None, None]
        spot = torch.exp(-(away**2).sum(-1) / (2 * params["radius"][:, None, None] ** 2))
        glow = (params["strength"][:, None, None] * spot)[:, None]
        return torch.ones_like(glow), glow


def _planckian(u: Float[Tensor, " n"], kelvin: Range) -> Float[Tensor, "n 3"]:
    """Uniform in reciprocal kelvin, where equal steps look equal."""
    return planckian_gain(1e6 / between(u, (1e6 / kelvin[1], 1e6 / kelvin[0])))


def _along(angle: Float[Tensor, " n"], height: int, width: int) -> Float[Tensor, "n 1 h w"]:
    """Signed distance from the frame's centre along a direction, in shares of the frame."""
    across, down = ((torch.arange(size, device=angle.device) + 0.5) / size - 0.5 for size in (width, height))
    x, y = angle.cos()[:, None, None] * across, angle.sin()[:, None, None] * down[:, None]
    return (x + y)[:, None]
