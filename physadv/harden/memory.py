"""Artworks of earlier steps, in 8 bit: where the next search begins (Zheng et al. 2020; Metzen et al. 2021)."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from physadv.harden.recipe import Start
from physadv.scenes.base import Scenes
from physadv.threats.base import Artwork, Theta, Threat
from physadv.threats.sought import SoughtPatch, chosen
from physadv.transforms.stages import derive

PER_CLASS = 16
SHARED = 16


@dataclass(frozen=True)
class Kept:
    """What a search found, and the slots it is for."""

    raster: str
    slots: Int[Tensor, " a"]
    pixels: Tensor  # (a, 3, h, w) uint8
    centres_mm: Float[Tensor, "a 2"]


@dataclass
class Memory:
    """Slots of artworks, for each kind of threat and raster its own: patches of any size share theirs.

    `images` rows and `classes` classes set how many slots there are; `shared` where artworks are for all.
    """

    start: Start
    images: int
    classes: int
    shared: int = SHARED
    pixels: dict[str, Tensor] = field(default_factory=dict)
    centres_mm: dict[str, Tensor] = field(default_factory=dict)
    filled: dict[str, Tensor] = field(default_factory=dict)

    def pools(self, threat: Threat) -> bool:
        """Whether an image has several artworks to begin with: those of its class. A norm ball's is of one image."""
        return self.start == "class" and not threat.per_image

    def slots(
        self, threat: Threat, rows: Int[Tensor, " n"], labels: Int[Tensor, " n"], *, seed: int
    ) -> Int[Tensor, " a"]:
        """The slots of a search on the images `rows`."""
        generator = torch.Generator().manual_seed(derive(seed, "slots"))
        if self.start == "shared":
            return torch.randint(self.shared, (1,), generator=generator)
        if self.pools(threat):
            return labels.cpu() * PER_CLASS + torch.randint(PER_CLASS, (len(rows),), generator=generator)
        return rows

    def recall(self, threat: Threat, scenes: Scenes, slots: Int[Tensor, " a"], *, seed: int) -> Theta:
        """What is in the slots; a random point of S where there is nothing yet."""
        generator = torch.Generator().manual_seed(derive(seed, "recall"))
        theta = threat.init(scenes, generator=generator, per_scene=self.start != "shared")
        raster = _raster(threat, theta.shape[2:])
        if self.start != "random" and raster in self.filled:
            known = self.filled[raster][slots]
            theta[known] = self.pixels[raster][slots[known]].to(theta) / 255
        return theta

    def place(self, threat: Threat, slots: Int[Tensor, " n"]) -> Threat:
        """With the patches in the slots where they were; elsewhere as it is."""
        if self.start not in ("image", "class") or not isinstance(threat, SoughtPatch):
            return threat
        raster = _raster(threat, threat.size_px)
        if raster not in self.filled:
            return threat
        before = threat.near(self.centres_mm[raster][slots].to(threat.place_mm))
        return chosen([threat, before], self.filled[raster][slots].long().to(threat.place_mm.device))

    def keep(self, kept: Sequence[Kept]) -> None:
        """Into the slots, in this order."""
        for one in kept:
            if self.start == "random":
                return
            pool = max(self.images, self.classes * PER_CLASS)  # norm balls keep one per image all the same
            count = {"image": self.images, "class": pool, "shared": self.shared}[self.start]
            if one.raster not in self.pixels:
                self.pixels[one.raster] = torch.zeros(count, *one.pixels.shape[1:], dtype=torch.uint8)
                self.centres_mm[one.raster] = torch.zeros(count, 2)
                self.filled[one.raster] = torch.zeros(count, dtype=torch.bool)
            for row, slot in enumerate(one.slots.tolist()):  # of two on one slot the last: an index leaves that open
                self.pixels[one.raster][slot] = one.pixels[row]
                self.centres_mm[one.raster][slot] = one.centres_mm[row]
                self.filled[one.raster][slot] = True

    def tensors(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        names = ("pixels", "centres_mm", "filled")
        return {f"{name}.{raster}": value for name in names for raster, value in getattr(self, name).items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        for name, value in tensors.items():
            table, raster = name.split(".")
            getattr(self, table)[raster] = value


def kept(threat: Threat, artwork: Artwork, slots: Int[Tensor, " a"]) -> Kept:
    """What is worth remembering of an artwork."""
    corners_mm = artwork.place_mm.expand(len(artwork), 4) if len(artwork.place_mm) == 1 else artwork.place_mm
    centres_mm = (corners_mm[: len(artwork), :2] + corners_mm[: len(artwork), 2:]).cpu() / 2
    pixels = artwork.rgb.mul(255).round().to(torch.uint8).cpu()
    return Kept(_raster(threat, artwork.rgb.shape[2:]), slots, pixels, centres_mm)


def _raster(threat: Threat, size_px: Sequence[int]) -> str:
    return f"{threat.name.partition(':')[0]} {size_px[0]}x{size_px[1]}"
