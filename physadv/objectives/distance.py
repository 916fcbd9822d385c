"""D: how far an artwork is from the sign as it was."""

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from kornia.color import rgb_to_lab
from torch import Tensor

from physadv.errors import UserError

Change = Float[Tensor, "n 3 h w"]
Lengths = Float[Tensor, " n"]

_SOFT, _HARD = 0.9, 0.98  # of the best distance so far


@runtime_checkable
class Distance(Protocol):
    """unit: of `length`. photographed: of the change in photographs (LAB), instead of that of the artwork (sRGB).

    first_c: a weight of the loss, in logits, at which it is about as important as the penalty.
    """

    @property
    def unit(self) -> str: ...

    @property
    def first_c(self) -> float: ...

    @property
    def photographed(self) -> bool: ...

    def length(self, change: Change) -> Lengths:
        """What is reported."""
        ...

    def penalty(self, change: Change, best: Lengths) -> Lengths:
        """What is minimised, smooth where the length is not. best: the shortest length that did, infinite if none."""
        ...

    def confine(self, change: Change, best: Lengths) -> Change:
        """The nearest change that can still be better than the best, where that has a closed form."""
        ...


@dataclass(frozen=True)
class L2:
    """|δ|₂ over all values of the artwork; its square is minimised."""

    unit: str = "Euclidean length of the change, colours in [0, 1]"
    first_c: float = 1.0
    photographed: bool = False

    def length(self, change: Change) -> Lengths:
        return change.flatten(1).norm(dim=1)

    def penalty(self, change: Change, best: Lengths) -> Lengths:
        return change.square().sum((1, 2, 3))

    def confine(self, change: Change, best: Lengths) -> Change:
        return change


@dataclass(frozen=True)
class Linf:
    """max |δ|; minimised is Σ max(|δ| − τ, 0), for a maximum pulls at one value only (Carlini & Wagner 2017, VI.C).

    τ is 0.9 of the best so far, and no value leaves 0.98 of it: a step overshoots τ by more than there is to gain.
    """

    unit: str = "largest change of a value, colours in [0, 1]"
    first_c: float = 30.0
    photographed: bool = False

    def length(self, change: Change) -> Lengths:
        return change.abs().amax((1, 2, 3))

    def penalty(self, change: Change, best: Lengths) -> Lengths:
        return (change.abs() - _SOFT * best[:, None, None, None]).clamp(min=0).sum((1, 2, 3))

    def confine(self, change: Change, best: Lengths) -> Change:
        bound = _HARD * best[:, None, None, None]
        return torch.minimum(torch.maximum(change, -bound), bound)


@dataclass(frozen=True)
class Seen:
    """The root mean square of CIE 1976 ΔE over the pixels of a photograph; its square is minimised."""

    unit: str = "ΔE (CIE 1976), root mean square over the photograph"
    first_c: float = 10.0
    photographed: bool = True

    def length(self, change: Change) -> Lengths:
        return self._square(change).sqrt()

    def penalty(self, change: Change, best: Lengths) -> Lengths:
        return self._square(change)

    def confine(self, change: Change, best: Lengths) -> Change:
        return change

    def _square(self, change: Change) -> Lengths:
        return change.square().sum(1).mean((1, 2))


def lab_change(photographs: Change, bare: Change) -> Change:
    """CIE LAB (D65) of the one less that of the other; both are sRGB in [0, 1]."""
    return rgb_to_lab(photographs) - rgb_to_lab(bare)


def make_distance(name: str) -> Distance:
    """`l2`, `linf` or `seen`. UserError: any other name."""
    made: dict[str, Distance] = {"l2": L2(), "linf": Linf(), "seen": Seen()}
    if name not in made:
        near = get_close_matches(name, list(made), n=1, cutoff=0)[0]
        raise UserError(f"There is no distance {name!r}: did you mean {near!r}?")
    return made[name]
