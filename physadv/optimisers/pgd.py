"""Projected gradient descent (Madry et al. 2018) with momentum (MI-FGSM, Dong et al. 2018, eqs. 6 and 7)."""

from dataclasses import dataclass
from typing import Literal

import torch

from physadv.errors import UserError
from physadv.optimisers.base import Pixels, Schedule, State, check_step_size, per_artwork, rate


@dataclass(frozen=True)
class PGD:
    """velocity ← momentum·velocity + g/|g|₁; θ ← θ − step·sign(velocity), or θ − step·velocity/|velocity|₂ ("l2").

    An artwork without gradient stays where it is.
    step_size: in colour for "linf", the Euclidean length over one whole artwork for "l2". Norms are per artwork.
    """

    step_size: float
    momentum: float = 0.9
    norm: Literal["linf", "l2"] = "linf"
    schedule: Schedule = "cosine"

    def __post_init__(self) -> None:
        check_step_size(self.step_size)
        if not 0 <= self.momentum < 1:
            raise UserError(f"A momentum of {self.momentum} never settles: give 0 or more, and less than 1.")

    def init(self, theta: Pixels) -> State:
        return {"velocity": torch.zeros_like(theta, requires_grad=False)}

    @torch.no_grad()
    def update(self, theta: Pixels, gradient: Pixels, state: State, *, progress: float) -> tuple[Pixels, State]:
        size = gradient.abs().sum((1, 2, 3))
        velocity = self.momentum * state["velocity"] + gradient / per_artwork(size)
        pulls = (size > 0)[:, None, None, None]  # an artwork that has won everywhere rests, whatever its momentum
        move = self.step_size * rate(self.schedule, progress) * pulls * self._direction(velocity)
        return theta - move, {"velocity": velocity}

    def _direction(self, velocity: Pixels) -> Pixels:
        return velocity.sign() if self.norm == "linf" else velocity / per_artwork(velocity.flatten(1).norm(dim=1))
