"""A poster over the whole face that differs from it by at most epsilon (the subtle poster of Eykholt et al. 2018)."""

from dataclasses import dataclass

from physadv.scenes.base import Scenes
from physadv.threats.printed import Printed, faces_in_use
from physadv.threats.sets import LinfBall


@dataclass(frozen=True)
class Poster:
    """|colour − face's colour|∞ ≤ epsilon on the opaque face."""

    epsilon: float

    @property
    def name(self) -> str:
        return f"poster:{self.epsilon:.4g}"

    def resolve(self, scenes: Scenes, *, resolution_px: int, seed: int) -> Printed:
        """The poster keeps the face's own raster: one of `resolution_px` would blur the lettering. Draws nothing."""
        rows = faces_in_use(scenes)
        faces, size_mm = scenes.faces.images[rows], scenes.faces.size_mm[rows]
        place_mm = size_mm.new_zeros(len(rows), 4)
        place_mm[:, 2:] = size_mm
        return Printed(self.name, LinfBall(faces[:, :3], self.epsilon), faces[:, 3:], place_mm)
