"""Threats whose place or shape is part of θ, and is sought on each scene: by trying many, since none has a gradient."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from physadv.errors import UserError
from physadv.threats.printed import Printed


@dataclass(frozen=True)
class Sought(Printed):
    """Until it was sought, `place_mm` and `alpha` are random ones. face: of each scene.

    still: there are no colours to search for.
    """

    face: Int[Tensor, " b"] = field(kw_only=True)

    @property
    def sought(self) -> bool:
        return True

    @property
    def still(self) -> bool:
        return False

    def take(self, rows: Int[Tensor, " n"]) -> "Sought":
        taken = super().take(rows)
        assert isinstance(taken, Sought)
        return replace(taken, face=self.face[rows.to(self.face.device)])

    def candidates(self, count: int, *, seed: int) -> list["Sought"]:
        """`count` ways it can be on each scene."""
        raise NotImplementedError

    def _check(self, count: int, scenes: int) -> None:
        if count == 1 and scenes > 1:
            raise UserError(
                f"{self.name} is sought on each scene, and here one artwork is for all of them: use evaluate --attack, "
                "or leave @worst out."
            )
        if not self.still:
            super()._check(count, scenes)


def chosen(candidates: Sequence[Sought], which: Int[Tensor, " b"]) -> Sought:
    """On each scene the candidate `which`."""
    first, row = candidates[0], torch.arange(len(which), device=which.device)
    place_mm = torch.stack([one.place_mm for one in candidates])[which, row]
    if len(first.alpha) == 1:
        return replace(first, place_mm=place_mm)
    return replace(first, place_mm=place_mm, alpha=torch.stack([one.alpha for one in candidates])[which, row])


@dataclass(frozen=True)
class Free:
    """Every place on a grid where a patch lies on the opaque face: its top-left corners, and its size, per face."""

    corners_mm: dict[int, Float[Tensor, "m 2"]]
    sizes_mm: Float[Tensor, "k 2"]

    def places(self, u: Float[Tensor, " n"], face: Int[Tensor, " n"]) -> Float[Tensor, "n 4"]:
        """Uniforms in [0, 1) -> xyxy in mm, each place of a face as likely as any other."""
        sizes_mm = self.sizes_mm[face.to(self.sizes_mm.device)]
        corners_mm = torch.empty_like(sizes_mm)
        for row in face.unique().tolist():
            which, free_mm = face == row, self.corners_mm[row]
            picked = (u[which.to(u.device)] * len(free_mm)).long().clamp(max=len(free_mm) - 1)
            corners_mm[which] = free_mm[picked.to(free_mm.device)]
        return torch.cat([corners_mm, corners_mm + sizes_mm], 1)

    def nearest(self, centres_mm: Float[Tensor, "n 2"], face: Int[Tensor, " n"]) -> Float[Tensor, "n 4"]:
        """Of each face the place whose centre is closest."""
        sizes_mm = self.sizes_mm[face.to(self.sizes_mm.device)]
        wanted_mm, corners_mm = centres_mm - sizes_mm / 2, torch.empty_like(sizes_mm)
        for row in face.unique().tolist():
            which = face == row
            corners_mm[which] = self.corners_mm[row][torch.cdist(wanted_mm[which], self.corners_mm[row]).argmin(1)]
        return torch.cat([corners_mm, corners_mm + sizes_mm], 1)


@dataclass(frozen=True)
class SoughtPatch(Sought):
    """A patch anywhere on the face."""

    free: Free = field(kw_only=True)

    def candidates(self, count: int, *, seed: int) -> list[Sought]:
        """Places spread evenly over each face: one drawn from every `count`-th part of all that are free."""
        u = torch.rand(count, len(self.face), generator=torch.Generator().manual_seed(seed))
        u = (u + torch.arange(count)[:, None]) / count
        return [replace(self, place_mm=self.free.places(one, self.face)) for one in u]

    def near(self, centres_mm: Float[Tensor, "b 2"]) -> "SoughtPatch":
        """With its centre as close to these as the face allows."""
        return replace(self, place_mm=self.free.nearest(centres_mm, self.face))
