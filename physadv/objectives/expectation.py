"""E over the views of one artwork: the mean, or the mean of the views that resist most."""

import math
import re
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from physadv.errors import UserError


@runtime_checkable
class Expectation(Protocol):
    def __call__(self, losses: Float[Tensor, "*artworks views"]) -> Float[Tensor, "*artworks"]: ...


@dataclass(frozen=True)
class Mean:
    def __call__(self, losses: Float[Tensor, "*artworks views"]) -> Float[Tensor, "*artworks"]:
        return losses.mean(-1)


@dataclass(frozen=True)
class CVaR:
    """The mean of the largest ⌈share · views⌉ losses (Rockafellar & Uryasev 2000)."""

    share: float

    def __call__(self, losses: Float[Tensor, "*artworks views"]) -> Float[Tensor, "*artworks"]:
        # 0.1 * 30 is 3.0000000000000004, which must not count as 4
        count = max(1, math.ceil(self.share * losses.shape[-1] - 1e-9))
        return losses.topk(count, -1).values.mean(-1)


def parse_expectation(text: str) -> Expectation:
    """`mean` or `cvar:SHARE` with 0 < SHARE ≤ 1. UserError: anything else."""
    if text == "mean":
        return Mean()
    found = re.fullmatch(r"cvar:(\d*\.?\d+)", text)
    if not found or not 0 < float(found[1]) <= 1:
        raise UserError(f"{text!r} is no expectation: use mean, or cvar:0.5 for the worst half (0 < share <= 1).")
    return CVaR(float(found[1]))
