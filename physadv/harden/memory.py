"""Artworks of earlier steps, in 8 bit: where the next search begins (Zheng et al. 2020; Metzen et al. 2021)."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Int
from torch import Tensor

from physadv.harden.recipe import Start
from physadv.scenes.base import Scenes
from physadv.threats.base import Theta, Threat
from physadv.transforms.stages import derive

PER_CLASS = 8
SHARED = 16


@dataclass(frozen=True)
class Kept:
    """What a search found, and the slots it is for."""

    raster: str
    slots: Int[Tensor, " a"]
    pixels: Tensor  # (a, 3, h, w) uint8


@dataclass
class Memory:
    """Slots of artworks, for each raster (height x width) its own: patches of any size share theirs.

    `images` rows and `classes` classes set how many slots there are.
    """

    start: Start
    images: int
    classes: int
    pixels: dict[str, Tensor] = field(default_factory=dict)
    filled: dict[str, Tensor] = field(default_factory=dict)

    def slots(self, rows: Int[Tensor, " n"], labels: Int[Tensor, " n"], *, seed: int) -> Int[Tensor, " a"]:
        """The slots of a search on the images `rows`."""
        generator = torch.Generator().manual_seed(derive(seed, "slots"))
        if self.start == "shared":
            return torch.randint(SHARED, (1,), generator=generator)
        if self.start == "class":
            return labels.cpu() * PER_CLASS + torch.randint(PER_CLASS, (len(rows),), generator=generator)
        return rows

    def recall(self, threat: Threat, scenes: Scenes, slots: Int[Tensor, " a"], *, seed: int) -> Theta:
        """What is in the slots; a random point of S where there is nothing yet."""
        generator = torch.Generator().manual_seed(derive(seed, "recall"))
        theta = threat.init(scenes, generator=generator, per_scene=self.start != "shared")
        raster = _raster(theta)
        if self.start != "random" and raster in self.filled:
            known = self.filled[raster][slots]
            theta[known] = self.pixels[raster][slots[known]].to(theta) / 255
        return theta

    def keep(self, kept: Sequence[Kept]) -> None:
        """Into the slots, in this order."""
        for one in kept:
            if self.start == "random":
                return
            count = {"image": self.images, "class": self.classes * PER_CLASS, "shared": SHARED}[self.start]
            if one.raster not in self.pixels:
                self.pixels[one.raster] = torch.zeros(count, *one.pixels.shape[1:], dtype=torch.uint8)
                self.filled[one.raster] = torch.zeros(count, dtype=torch.bool)
            self.pixels[one.raster][one.slots] = one.pixels
            self.filled[one.raster][one.slots] = True

    def tensors(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        both = ("pixels", self.pixels), ("filled", self.filled)
        return {f"{name}.{raster}": value for name, table in both for raster, value in table.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        for name, value in tensors.items():
            table, raster = name.split(".")
            getattr(self, table)[raster] = value


def kept(theta: Theta, slots: Int[Tensor, " a"]) -> Kept:
    return Kept(_raster(theta), slots, theta.mul(255).round().to(torch.uint8).cpu())


def _raster(theta: Theta) -> str:
    return f"{theta.shape[2]}x{theta.shape[3]}"
