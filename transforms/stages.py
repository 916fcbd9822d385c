"""The five stages of a world, and what was drawn from them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from hashlib import blake2b
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from physadv.transforms import camera, light, mount, view, weather
from physadv.transforms import print as ink
from physadv.transforms.base import Params, Transform

Family = TypeVar("Family")

FAMILIES: dict[str, dict[str, type]] = {
    "print": {"ink": ink.Ink},
    "mount": {"placement": mount.Placement, "bend": mount.Bend},
    "light": {
        "exposure": light.Exposure,
        "temperature": light.Temperature,
        "veil": light.Veil,
        "gradient": light.Gradient,
        "shadow": light.Shadow,
        "glare": light.Glare,
    },
    "view": {"pinhole": view.Pinhole, "relative": view.Relative, "box": view.Box, "backdrop": view.Backdrop},
    "camera": {
        "rain": weather.Rain,
        "snow": weather.Snow,
        "dirt": weather.Dirt,
        "fog": weather.Fog,
        "defocus": camera.Defocus,
        "motion": camera.Motion,
        "balance": camera.Balance,
        "noise": camera.Noise,
        "tone": camera.Tone,
        "sharpen": camera.Sharpen,
        "jpeg": camera.Jpeg,
    },
}


@dataclass(frozen=True)
class Stages:
    """Printer, mounting, light, viewpoint, camera: in this order, each a tuple of transforms."""

    print: tuple[Transform, ...] = ()
    mount: tuple[Transform, ...] = ()
    light: tuple[Transform, ...] = ()
    view: tuple[Transform, ...] = ()
    camera: tuple[Transform, ...] = ()

    def __iter__(self) -> Iterator[Transform]:
        for stage in fields(self):
            yield from getattr(self, stage.name)

    def get(self, family: type[Family]) -> Family:
        """The transform of that family, or one of its kind that does nothing."""
        return next((transform for transform in self if isinstance(transform, family)), family())

    def kind(self, base: type[Any], *stages: str) -> list[Any]:
        """Transforms of one kind in the given stages, in physical order."""
        return [t for stage in stages for t in getattr(self, stage) if isinstance(t, base)]

    @property
    def dims(self) -> int:
        return sum(transform.dims for transform in self)

    def without(self, *stages: str) -> "Stages":
        """The same world less whole stages: for ablations and for splitting a gap by stage."""
        return replace(self, **dict.fromkeys(stages, ()))


@dataclass(frozen=True)
class Draw:
    """Parameters of n views by transform, and two free pairs of uniforms per view.

    place: for a random place of the artwork on the sign. stand: for the place of a staged sign in a whole frame.
    """

    stages: Stages
    params: dict[type, Params]
    place: Float[Tensor, "n 2"]
    stand: Float[Tensor, "n 2"]

    def __len__(self) -> int:
        return len(self.place)

    def of(self, transform: Transform) -> Params:
        """The parameters drawn for a transform (of one that is not part of the world: those that do nothing)."""
        if type(transform) in self.params:
            return self.params[type(transform)]
        return _move(transform.sample(torch.zeros(len(self), transform.dims)), self.place.device)

    def on_photographs(self) -> "Draw":
        """The same draw for scenes that have their own light already."""
        params = {
            family: {**values, "gain": values["photographed"]} if "photographed" in values else values
            for family, values in self.params.items()
        }
        return replace(self, params=params)

    def to(self, device: torch.device) -> "Draw":
        moved = {family: _move(params, device) for family, params in self.params.items()}
        return replace(self, params=moved, place=self.place.to(device), stand=self.stand.to(device))


def _move(params: Params, device: torch.device) -> Params:
    return {name: value.to(device) for name, value in params.items()}


def draw(stages: Stages, views: Sequence[int], *, seed: int, paired: bool = False) -> Draw:
    """Parameters of the given views: those of view i depend on (seed, i) alone. paired: see `World.draw`."""
    # A staged sign always stands before something, also in a world that says nothing of it: the last columns place it.
    rows = (antithetic if paired else uniforms)(views, 4 + stages.dims + view.Backdrop.dims, seed=seed)
    params, start = {}, 2
    for transform in stages:
        params[type(transform)] = transform.sample(rows[:, start : start + transform.dims])
        start += transform.dims
    params.setdefault(view.Backdrop, view.Backdrop().sample(rows[:, start : start + view.Backdrop.dims]))
    return Draw(stages, params, rows[:, :2], rows[:, -2:])


def uniforms(views: Sequence[int], dims: int, *, seed: int) -> Float[Tensor, "n dims"]:
    """One row of uniforms per view, made on the CPU from (seed, view) alone."""
    generator = torch.Generator()
    return torch.stack([torch.rand(dims, generator=generator.manual_seed(derive(seed, view))) for view in views])


def antithetic(views: Sequence[int], dims: int, *, seed: int) -> Float[Tensor, "n dims"]:
    """The uniforms of pair i // 2; mirrored, 1 − u, where i is odd (Hammersley & Morton 1956)."""
    u = uniforms([view // 2 for view in views], dims, seed=seed)
    odd = torch.tensor([view % 2 == 1 for view in views])[:, None]
    return torch.where(odd, 1 - u, u)


def derive(*parts: int | str) -> int:
    """A seed of its own for every tuple of parts: streams of different purposes never meet."""
    digest = blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
