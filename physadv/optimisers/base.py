"""argmin: one step from θ in the landscape of the loss."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from physadv.errors import UserError

Pixels = Float[Tensor, "a 3 h w"]
State = dict[str, Tensor]
Schedule = Literal["cosine", "constant"]


@dataclass(frozen=True)
class Landscape:
    """What one step may ask.

    loss: the expectation over this step's views, penalties included; the same views however often it is asked.
    project: onto S. progress: the share of all steps that is done. common: the step before had these views, too.
    generator: for chance of this step alone (CPU).
    """

    loss: Callable[[Pixels], Float[Tensor, " a"]]
    project: Callable[[Pixels], Pixels]
    progress: float
    common: bool
    generator: torch.Generator


@runtime_checkable
class Rule(Protocol):
    """How a gradient becomes a move. Pure: `update` returns new tensors, and the same arguments give the same bits."""

    @property
    def step_size(self) -> float: ...

    def init(self, theta: Pixels) -> State:
        """The state before the first step."""
        ...

    def update(self, theta: Pixels, gradient: Pixels, state: State, *, progress: float) -> tuple[Pixels, State]:
        """One step down, not yet projected."""
        ...


@runtime_checkable
class Optimiser(Protocol):
    """One step in S, from θ and a state that can be saved."""

    @property
    def gradients(self) -> bool:
        """Whether it needs the target's gradient; score-only targets have none."""
        ...

    @property
    def evaluations(self) -> int:
        """How often a step asks for the loss: with the views of a step, its price in photographs."""
        ...

    def init(self, theta: Pixels) -> State: ...

    def step(self, theta: Pixels, landscape: Landscape, state: State) -> tuple[Pixels, State, Float[Tensor, " a"]]:
        """The next θ in S, the state, and the losses at the θ that was given."""
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
