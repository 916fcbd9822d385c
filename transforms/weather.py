"""Weather, between the sign and the lens: part of the camera stage."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import grid_sample

from physadv.transforms.base import Colour, Field, Params, Range, between, check_spans, happens
from physadv.transforms.texture import frame_points, soft_step, texture, white_noise

Fields = tuple[Float[Tensor, "n 1 h w"], Float[Tensor, "n #c h w"]]


@dataclass(frozen=True)
class Fog(Colour):
    """Koschmieder's law: light · t + airlight · (1 − t), t the share of light that arrives."""

    dims: ClassVar[int] = 3
    probability: float = 0.0
    transmission: Range = (0.3, 0.9)
    airlight: Range = (0.5, 0.8)

    def __post_init__(self) -> None:
        check_spans(self, transmission=(0.02, 1), airlight=(0, 1))

    def sample(self, u: Float[Tensor, "n 3"]) -> Params:
        lost = happens(u[:, 0], self.probability) * (1 - between(u[:, 1], self.transmission))
        return {"transmission": 1 - lost, "glow": lost * between(u[:, 2], self.airlight)}

    def affine(self, params: Params) -> tuple[Float[Tensor, "n 3 3"], Float[Tensor, "n 3"]]:
        kept = params["transmission"]
        return kept[:, None, None] * torch.eye(3, device=kept.device), params["glow"][:, None].expand(-1, 3)


@dataclass(frozen=True)
class Rain(Field):
    """Bright streaks, nearly vertical, and a share of the light lost in between."""

    dims: ClassVar[int] = 5
    probability: float = 0.0
    density: Range = (0.2, 0.6)
    light: Range = (0.1, 0.3)

    def __post_init__(self) -> None:
        check_spans(self, density=(0, 1), light=(0, 1))

    def sample(self, u: Float[Tensor, "n 5"]) -> Params:
        on = happens(u[:, 0], self.probability)
        light = on * between(u[:, 2], self.light)
        return {"light": light, "density": between(u[:, 1], self.density), "place": u[:, 3:5]}

    def acts(self, params: Params) -> Bool[Tensor, " n"]:
        return params["light"] > 0

    def fields(self, params: Params, height: int, width: int) -> Fields:
        drops = white_noise(params["place"], 8, 48)[:, :1]  # few rows, many columns: each texel is a streak
        points = frame_points(height, width, device=drops.device)
        slant = (params["place"][:, :1] - 0.5) * 0.3
        lean = points[..., 0] + slant[:, :, None] * (points[..., 1] - 0.5)
        grid = 2 * torch.stack([lean, points[..., 1].expand_as(lean)], -1) - 1
        noise = grid_sample(drops, grid, padding_mode="reflection", align_corners=False)
        threshold = 2.2 - 1.6 * params["density"][:, None, None, None]
        streak = params["light"][:, None, None, None] * soft_step(noise - threshold, noise.new_full((1, 1, 1, 1), 0.8))
        return 1 - streak, 0.7 * streak


@dataclass(frozen=True)
class Snow(Field):
    """Flakes in the air: white blobs of a few percent of the frame."""

    dims: ClassVar[int] = 5
    probability: float = 0.0
    density: Range = (0.1, 0.5)
    flake: Range = (0.03, 0.08)

    def __post_init__(self) -> None:
        check_spans(self, density=(0, 1), flake=(0.01, 0.5))

    def sample(self, u: Float[Tensor, "n 5"]) -> Params:
        on = happens(u[:, 0], self.probability)
        return {
            "on": on,
            "density": between(u[:, 1], self.density),
            "flake": between(u[:, 2], self.flake),
            "place": u[:, 3:5],
        }

    def acts(self, params: Params) -> Bool[Tensor, " n"]:
        return params["on"] > 0

    def fields(self, params: Params, height: int, width: int) -> Fields:
        noise = texture(params["place"], height, width, scale=params["flake"])
        threshold = 2.6 - 1.6 * params["density"][:, None, None, None]
        flakes = params["on"][:, None, None, None] * soft_step(noise - threshold, noise.new_full((1, 1, 1, 1), 0.6))
        return 1 - flakes, 0.85 * flakes


@dataclass(frozen=True)
class Dirt(Field):
    """Dust and mud on the sign or the lens: brown, patchy, `cover` at its thickest."""

    dims: ClassVar[int] = 4
    probability: float = 0.0
    cover: Range = (0.1, 0.5)

    def __post_init__(self) -> None:
        check_spans(self, cover=(0, 1))

    def sample(self, u: Float[Tensor, "n 4"]) -> Params:
        return {"cover": happens(u[:, 0], self.probability) * between(u[:, 1], self.cover), "place": u[:, 2:4]}

    def acts(self, params: Params) -> Bool[Tensor, " n"]:
        return params["cover"] > 0

    def fields(self, params: Params, height: int, width: int) -> Fields:
        noise = texture(params["place"], height, width, scale=torch.full_like(params["cover"], 0.2))
        cover = params["cover"][:, None, None, None] * soft_step(noise - 0.3, noise.new_full((1, 1, 1, 1), 2.0))
        mud = cover.new_tensor([0.16, 0.12, 0.08])[:, None, None]  # linear reflectance of dry soil
        return 1 - cover, cover * mud
