"""x, y: photographs, the plane in each on which something can be printed, and the truth."""

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from physadv.transforms.colour import to_linear
from physadv.transforms.warp import pyramid


@dataclass(frozen=True)
class Faces:
    """What is printed on the signs, in surface coordinates. Alpha is 1 on the opaque face."""

    images: Float[Tensor, "k 4 s s"]
    size_mm: Float[Tensor, "k 2"]
    outline_mm: Float[Tensor, "k points 2"]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def light(self) -> list[Tensor]:
        """The faces in linear light, premultiplied, as a pyramid: made once, sampled by every view."""
        alpha = self.images[:, 3:]
        return pyramid(torch.cat([to_linear(self.images[:, :3]) * alpha, alpha], 1), levels=5)

    @property
    def area_mm2(self) -> Float[Tensor, " k"]:
        """The opaque area: what "% of the sign" refers to everywhere."""
        return self.images[:, 3].mean((1, 2)) * self.size_mm.prod(1)


@dataclass(frozen=True)
class Scenes:
    """b scenes: photographs of signs, or (with `backgrounds`) sign faces that the world poses in metres.

    surface: homography, surface mm -> image px (convention: `transforms/warp.py`).
    gain, bias: the scene's own light, linear photograph = gain * linear reflectance + bias, per channel.
    native_px: image px per pixel of the original photograph (> 1 where it was enlarged).
    groups: the physical sign (track) or photograph a scene belongs to: the cluster of every interval.
    """

    images: Float[Tensor, "b 3 h w"]
    surface: Float[Tensor, "b 3 3"]
    faces: Faces
    face: Int[Tensor, " b"]
    labels: Int[Tensor, " b"]
    classes: tuple[str, ...]
    names: tuple[str, ...]
    groups: tuple[str, ...]
    gain: Float[Tensor, "b 3"]
    bias: Float[Tensor, "b 3"]
    native_px: Float[Tensor, " b"]
    backgrounds: Float[Tensor, "m 3 hb wb"] | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def staged(self) -> bool:
        return self.backgrounds is not None

    def take(self, rows: Int[Tensor, " n"]) -> "Scenes":
        """Scenes `rows`, repeats allowed; faces and backgrounds stay whole."""
        per_scene = ("images", "surface", "face", "labels", "gain", "bias", "native_px")
        picked: dict[str, Any] = {name: getattr(self, name)[rows] for name in per_scene}
        names: dict[str, Any] = {
            name: tuple(getattr(self, name)[int(row)] for row in rows) for name in ("names", "groups")
        }
        return replace(self, **picked, **names)

    def to(self, device: torch.device | str) -> "Scenes":
        moved: dict[str, Any] = {
            f.name: v.to(device) for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)
        }
        faces: dict[str, Any] = {
            f.name: v.to(device) for f in fields(self.faces) if isinstance(v := getattr(self.faces, f.name), Tensor)
        }
        return replace(self, **moved, faces=replace(self.faces, **faces))
