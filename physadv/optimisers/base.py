"""argmin: one step from θ, its gradient and a state that can be saved. No step projects; the threat does."""

import math
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from physadv.errors import UserError

Pixels = Float[Tensor, "a 3 h w"]
State = dict[str, Tensor]
Schedule = Literal["cosine", "constant"]


@runtime_checkable
class Optimiser(Protocol):
    """Pure: `update` returns new tensors, and the same arguments give the same bits."""

    @property
    def step_size(self) -> float: ...

    def init(self, theta: Pixels) -> State:
        """The state before the first step."""
        ...

    def update(self, theta: Pixels, gradient: Pixels, state: State, *, progress: float) -> tuple[Pixels, State]:
        """One step down. progress: the share of all steps that is done, in [0, 1]."""
        ...


def rate(schedule: Schedule, progress: float) -> float:
    """The factor on the step size: 1 throughout, or (1 + cos π·progress) / 2."""
    return 1.0 if schedule == "constant" else (1 + math.cos(math.pi * progress)) / 2


def per_artwork(values: Float[Tensor, " a"]) -> Float[Tensor, "a 1 1 1"]:
    """Norms as divisors; 1 in place of 0, so that no gradient means no step."""
    return torch.where(values > 0, values, torch.ones_like(values))[:, None, None, None]


def check_step_size(step_size: float) -> None:
    if not (step_size > 0 and math.isfinite(step_size)):
        raise UserError(f"A step size of {step_size} does not move anything anywhere: give a number above 0.")
