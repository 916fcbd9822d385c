"""A resolved threat: a set of colours, a coverage and a place. Stickers, patches, posters, norm balls: all are one."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from physadv.errors import UserError
from physadv.scenes.base import Scenes
from physadv.threats.base import Artwork, Ball, Theta
from physadv.threats.sets import FeasibleSet


@dataclass(frozen=True)
class Printed:
    """θ in `feasible`, seen through `alpha` at `place_mm`.

    alpha, place_mm: one, or one per scene of those it was resolved for. One artwork that serves several scenes is
    printed where the alphas of all of them allow it.
    per_image: θ belongs to one photograph (norm balls), so `init` makes one per scene, asked or not.
    """

    name: str
    feasible: FeasibleSet
    alpha: Float[Tensor, "masks 1 h w"]
    place_mm: Float[Tensor, "p 4"]
    per_image: bool = False

    @property
    def ball(self) -> Ball | None:
        return self.feasible.ball if self.per_image else None

    @property
    def roams(self) -> bool:
        return False

    @property
    def sought(self) -> bool:
        return False

    def at(self, place_mm: Float[Tensor, "p 4"]) -> "Printed":
        """The same at other places."""
        return replace(self, place_mm=place_mm)

    @property
    def size_px(self) -> tuple[int, int]:
        """Rows and columns of θ."""
        return self.alpha.shape[2], self.alpha.shape[3]

    def take(self, rows: Int[Tensor, " n"]) -> "Printed":
        """The threat for `scenes.take(rows)`, without resolving it again."""
        alpha, place_mm = (part if len(part) == 1 else part[rows] for part in (self.alpha, self.place_mm))
        return replace(self, feasible=self.feasible.take(rows), alpha=alpha, place_mm=place_mm)

    def init(self, scenes: Scenes, *, generator: torch.Generator, per_scene: bool = False) -> Theta:
        """A random point of S: (1, 3, h, w), or one per scene.

        UserError: one artwork was asked for, but the scenes have no set of colours or no place in common.
        """
        count = len(scenes) if per_scene or self.per_image else 1
        self._check(count, len(scenes))
        return self.feasible.sample(count, self.size_px, generator=generator).to(self.alpha.device)

    def _check(self, count: int, scenes: int) -> None:
        resolved = max(self.feasible.rows, len(self.alpha), len(self.place_mm))
        if resolved not in (1, scenes):
            raise UserError(f"{self.name} was made for {resolved} scenes, not {scenes}: resolve it for these scenes.")
        if self.feasible.rows > count:
            raise UserError(f"{self.name} needs one face, and these scenes show several: choose one with --classes.")
        if not self._alpha(count).flatten(1).any(1).all():
            raise UserError(f"{self.name} has no place on every one of these faces: choose one with --classes.")

    def places(self, u: Float[Tensor, "n 2"], scenes: Scenes, rows: Int[Tensor, " n"]) -> Float[Tensor, "n 4"]:
        """Where it is in views of the scenes `rows`, in mm. Takes no part in chance, unless the threat roams."""
        return self.place_mm.expand(len(rows), 4) if len(self.place_mm) == 1 else self.place_mm[rows]

    def project(self, theta: Theta) -> Theta:
        """argmin_{s in S} |s − theta|₂, exactly."""
        return self.feasible.project(theta)

    def artwork(self, theta: Theta) -> Artwork:
        """θ in its place; differentiable in θ."""
        record = {"threat": self.name}
        return Artwork(self.feasible.colours(theta), self._alpha(len(theta)), self.place_mm, record, not self.per_image)

    def _alpha(self, count: int) -> Float[Tensor, "masks 1 h w"]:
        return self.alpha.amin(0, keepdim=True) if count == 1 else self.alpha


def faces_in_use(scenes: Scenes) -> Int[Tensor, " n"]:
    """Rows of `scenes.faces`: the one that all signs with the artwork share, or one per scene.

    UserError: signs of several classes in whole photographs.
    """
    face = scenes.face if scenes.worn is None else scenes.face[scenes.worn]
    if bool((face == face[0]).all()):
        return face[:1]
    if scenes.photograph is not None:
        shown = ", ".join(sorted({scenes.faces.names[int(row)] for row in face}))
        raise UserError(f"One artwork is for one class, and these photographs show {shown}: choose with --classes.")
    return face
