"""Descent: a gradient, a rule that makes a move of it, a projection."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from physadv.optimisers.base import Landscape, Pixels, Rule, State


@runtime_checkable
class Gradient(Protocol):
    """Where the gradient comes from."""

    @property
    def exact(self) -> bool:
        """Whether the target must be differentiable."""
        ...

    @property
    def evaluations(self) -> int:
        """How often it asks for the loss."""
        ...

    def __call__(self, theta: Pixels, landscape: Landscape) -> tuple[Pixels, Float[Tensor, " a"]]:
        """The gradient of every artwork's loss, and the losses."""
        ...


@dataclass(frozen=True)
class Autograd:
    """What torch says; zero where no graph leads from the losses to θ."""

    exact: bool = True
    evaluations: int = 1

    def __call__(self, theta: Pixels, landscape: Landscape) -> tuple[Pixels, Float[Tensor, " a"]]:
        theta = theta.detach().requires_grad_()
        losses = landscape.loss(theta)
        if not losses.requires_grad:
            return torch.zeros_like(theta, requires_grad=False), losses
        (gradient,) = torch.autograd.grad(losses.sum(), theta, allow_unused=True)
        return torch.zeros_like(theta, requires_grad=False) if gradient is None else gradient, losses.detach()


@dataclass(frozen=True)
class Descent:
    """θ ← project(rule(θ, gradient))."""

    rule: Rule
    gradient: Gradient = Autograd()

    @property
    def gradients(self) -> bool:
        return self.gradient.exact

    @property
    def evaluations(self) -> int:
        return self.gradient.evaluations

    def init(self, theta: Pixels) -> State:
        return self.rule.init(theta)

    def step(self, theta: Pixels, landscape: Landscape, state: State) -> tuple[Pixels, State, Float[Tensor, " a"]]:
        """One move, projected."""
        gradient, losses = self.gradient(theta, landscape)
        moved, state = self.rule.update(theta.detach(), gradient, state, progress=landscape.progress)
        return landscape.project(moved), state, losses
