"""θ: the printed thing itself, and what every threat can do."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from physadv.errors import UserError
from physadv.files import image_tensor, open_image, png_bytes, read_json, sha256, write_atomic, write_json
from physadv.scenes.base import Scenes

Theta = Tensor
"""(a, 3, h, w) sRGB in [0, 1]: the colours of the artwork's pixels. a is 1, or one per scene."""


@dataclass(frozen=True)
class Ball:
    """|θ − x| ≤ radius. linf: in colour; l2: the Euclidean length over one whole image."""

    norm: Literal["linf", "l2"]
    radius: float


@dataclass(frozen=True)
class Artwork:
    """Colours, coverage and place: everything it takes to print or to paste θ, with no model at hand.

    rgb: sRGB in [0, 1]; a = 1 (one artwork for all scenes) or one per scene.
    alpha: the share of each pixel that is covered, in [0, 1].
    place_mm: xyxy on the surface; p = 1, or one per scene (or per view).
    record: json: where the artwork comes from, and every figure measured on it.
    printed: False for a picture of the scene itself (norm balls), which no ink and no light changes again.
    cast: light that is missing (shadows) where alpha says so: no ink, no mount.
    """

    rgb: Float[Tensor, "a 3 h w"]
    alpha: Float[Tensor, "masks 1 h w"]
    place_mm: Float[Tensor, "p 4"]
    record: Mapping[str, Any] = field(default_factory=dict)
    printed: bool = True
    cast: bool = False

    def __len__(self) -> int:
        return len(self.rgb)

    def take(self, rows: Int[Tensor, " n"]) -> "Artwork":
        """The artworks of scenes `rows`; what all scenes share stays shared."""
        parts = {name: getattr(self, name) for name in ("rgb", "alpha", "place_mm")}
        return replace(self, **{name: part if len(part) == 1 else part[rows] for name, part in parts.items()})

    def at(self, place_mm: Float[Tensor, "n 4"]) -> "Artwork":
        """The same artwork at other places."""
        return replace(self, place_mm=place_mm)

    def to(self, device: torch.device | str) -> "Artwork":
        return replace(self, rgb=self.rgb.to(device), alpha=self.alpha.to(device), place_mm=self.place_mm.to(device))

    def quantised(self) -> "Artwork":
        """What the PNG holds: colours and alpha rounded to 8 bits, as a copy without gradient."""
        return replace(self, rgb=_round_8bit(self.rgb), alpha=_round_8bit(self.alpha))

    def save(self, folder: Path) -> None:
        """Write art.png, alpha.png (art-0000.png ... for several) and artwork.json, each atomically, the json last."""
        folder.mkdir(parents=True, exist_ok=True)
        pictures = {
            _file_name(stem, row, len(stack)): png_bytes(picture)
            for stem, stack in (("art", self.rgb), ("alpha", self.alpha))
            for row, picture in enumerate(stack)
        }
        for name, data in pictures.items():
            write_atomic(folder / name, data)
        write_json(folder / "artwork.json", self._description(pictures))

    def _description(self, pictures: dict[str, bytes]) -> dict[str, Any]:
        return {
            "artworks": len(self.rgb),
            "alphas": len(self.alpha),
            "size_px": [self.rgb.shape[3], self.rgb.shape[2]],
            "place_mm": self.place_mm.double().tolist(),
            "printed": self.printed,
            "cast": self.cast,
            "sha256": {name: sha256(data) for name, data in pictures.items()},
            "record": dict(self.record),
        }


def load_artwork(folder: Path) -> Artwork:
    """The artwork that `Artwork.save` wrote; equal to its `quantised()`.

    UserError: no artwork there, or a picture that is not the one the json was written for.
    """
    path = folder / "artwork.json"
    if not path.is_file():
        raise UserError(f"{folder} holds no artwork.json: give the output folder of `physadv attack`.")
    said = read_json(path)
    try:
        rgb = _load_stack(folder, "art", said["artworks"], "RGB", said["sha256"])
        alpha = _load_stack(folder, "alpha", said["alphas"], "L", said["sha256"])
        place_mm = torch.tensor(said["place_mm"], dtype=torch.float32)
        return Artwork(rgb, alpha, place_mm, said["record"], said["printed"], said.get("cast", False))
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} does not describe an artwork ({error!r}): make the artwork again.") from error


def covered_share(artwork: Artwork, face_area_mm2: Float[Tensor, " faces"] | float) -> Float[Tensor, " n"]:
    """Covered area / opaque area of the face, per artwork or place."""
    width_mm, height_mm = (artwork.place_mm[:, 2:] - artwork.place_mm[:, :2]).unbind(1)
    return artwork.alpha.mean((1, 2, 3)) * width_mm * height_mm / face_area_mm2


@runtime_checkable
class Threat(Protocol):
    """What the adversary may change (S), resolved against the scenes it is meant for.

    name: the spec it was made from. per_image: θ belongs to one photograph, and no other can wear it.
    ball: the norm ball that S is, if it is one: its norm sets the closed form of a step, its radius the length.
    roams: its place is drawn anew in every view. sought: the attack looks for its place on each scene.
    """

    @property
    def name(self) -> str: ...

    @property
    def per_image(self) -> bool: ...

    @property
    def ball(self) -> Ball | None: ...

    @property
    def roams(self) -> bool: ...

    @property
    def sought(self) -> bool: ...

    def init(self, scenes: Scenes, *, generator: torch.Generator, per_scene: bool = False) -> Theta:
        """A random point of S: one for all scenes, or one per scene."""
        ...

    def take(self, rows: Int[Tensor, " n"]) -> "Threat":
        """The threat for `scenes.take(rows)`."""
        ...

    def places(self, u: Float[Tensor, "n 2"], scenes: Scenes, rows: Int[Tensor, " n"]) -> Float[Tensor, "n 4"]:
        """Where the artwork is in views of the scenes `rows`, in mm; u: two uniforms per view, for chance."""
        ...

    def project(self, theta: Theta) -> Theta:
        """argmin_{s in S} |s − theta|₂."""
        ...

    def artwork(self, theta: Theta) -> Artwork:
        """θ in its place; differentiable in θ."""
        ...


def _round_8bit(values: Tensor) -> Tensor:
    return values.detach().clamp(0, 1).mul(255).round().div(255)


def _file_name(stem: str, row: int, count: int) -> str:
    return f"{stem}.png" if count == 1 else f"{stem}-{row:04d}.png"


def _load_stack(
    folder: Path, stem: str, count: int, mode: Literal["RGB", "L"], hashes: Mapping[str, str]
) -> Float[Tensor, "n c h w"]:
    return torch.stack([_load_png(folder / _file_name(stem, row, count), mode, hashes) for row in range(count)])


def _load_png(path: Path, mode: Literal["RGB", "L"], hashes: Mapping[str, str]) -> Float[Tensor, "c h w"]:
    if not path.is_file():
        raise UserError(f"{path} is missing: make the artwork again.")
    if sha256(path) != hashes.get(path.name):
        raise UserError(f"{path} was changed after artwork.json was written: make the artwork again.")
    return image_tensor(open_image(path, mode=mode))
