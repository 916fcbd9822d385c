"""x, y: photographs, the plane in each on which something can be printed, and the truth."""

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from physadv.scenes.store import rows_of
from physadv.transforms.colour import to_linear
from physadv.transforms.warp import pyramid

_PER_SIGN = ("surface", "face", "labels", "gain", "bias")


def floats(images: Float[Tensor, "*shape"] | UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """8-bit images as float32 in [0, 1]; floats as they are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


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
    """b scenes with m signs: photographs, or (with `backgrounds`) sign faces that the world poses in metres.

    surface: homography, surface mm -> image px (convention: `transforms/warp.py`).
    gain, bias: the scene's own light, linear photograph = gain * linear reflectance + bias, per channel.
    native_px: image px per pixel of the original photograph (> 1 where it was enlarged).
    groups: the physical sign (track) or photograph a scene belongs to: the cluster of every interval.
    photograph: the row of each sign's photograph, where photographs hold 0 to N signs; None: sign i is in photograph i.
    extent_px: width and height of a whole photograph in the top-left of its square canvas; None: the canvas.
    worn: the signs that carry the artwork; None: every one.
    """

    images: Float[Tensor, "b 3 h w"] | UInt8[Tensor, "b 3 h w"]
    surface: Float[Tensor, "m 3 3"]
    faces: Faces
    face: Int[Tensor, " m"]
    labels: Int[Tensor, " m"]
    classes: tuple[str, ...]
    names: tuple[str, ...]
    groups: tuple[str, ...]
    gain: Float[Tensor, "m 3"]
    bias: Float[Tensor, "m 3"]
    native_px: Float[Tensor, " b"]
    backgrounds: Float[Tensor, "pictures 3 hb wb"] | None = None
    photograph: Int[Tensor, " m"] | None = None
    extent_px: Float[Tensor, "b 2"] | None = None
    worn: Bool[Tensor, " m"] | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def staged(self) -> bool:
        return self.backgrounds is not None

    @property
    def of(self) -> Int[Tensor, " m"]:
        """The row of each sign's photograph."""
        return torch.arange(len(self.face), device=self.face.device) if self.photograph is None else self.photograph

    @property
    def wearing(self) -> Bool[Tensor, " b"]:
        """Photographs with a sign that carries the artwork."""
        worn = self.of if self.worn is None else self.of[self.worn]
        return torch.zeros(len(self), dtype=torch.bool, device=worn.device).index_fill(0, worn, True)

    def take(self, rows: Int[Tensor, " n"]) -> "Scenes":
        """Scenes `rows` with their signs, repeats allowed; faces and backgrounds stay whole."""
        signs, photograph = self._signs_in(rows)
        picked: dict[str, Any] = {name: getattr(self, name)[signs] for name in _PER_SIGN}
        images = self.images.expand(len(rows), -1, -1, -1) if len(self) == 1 else rows_of(self.images, rows)
        picked |= {"images": images, "native_px": self.native_px[rows], "photograph": photograph}
        picked |= {"extent_px": None if self.extent_px is None else self.extent_px[rows]}
        picked |= {"worn": None if self.worn is None else self.worn[signs]}
        for name in ("names", "groups"):
            picked[name] = tuple(getattr(self, name)[int(row)] for row in rows)
        return replace(self, **picked)

    def relabelled(self, labels: Int[Tensor, " m"]) -> "Scenes":
        """The same scenes with other labels, such as a target's."""
        return replace(self, labels=labels)

    def _signs_in(self, rows: Int[Tensor, " n"]) -> tuple[Int[Tensor, " k"], Int[Tensor, " k"] | None]:
        """The signs of photographs `rows`, one photograph after the other, and which of the rows each is in."""
        if self.photograph is None:
            return rows, None
        at, signs = (rows.to(self.photograph.device)[:, None] == self.photograph).nonzero().unbind(1)
        return signs, at

    def to(self, device: torch.device | str) -> "Scenes":
        moved: dict[str, Any] = {
            f.name: v.to(device) for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)
        }
        faces: dict[str, Any] = {
            f.name: v.to(device) for f in fields(self.faces) if isinstance(v := getattr(self.faces, f.name), Tensor)
        }
        return replace(self, **moved, faces=replace(self.faces, **faces))
