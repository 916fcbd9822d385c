"""Adam (Kingma & Ba 2015, algorithm 1), functional."""

from dataclasses import dataclass

import torch

from physadv.errors import UserError
from physadv.optimisers.base import Pixels, Schedule, State, check_step_size, rate

_EPSILON = 1e-8


@dataclass(frozen=True)
class Adam:
    """step_size: about how far one value moves per step, in colour."""

    step_size: float
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: Schedule = "cosine"

    def __post_init__(self) -> None:
        check_step_size(self.step_size)
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"Betas of {self.betas} never settle: give 0 or more, and less than 1.")

    def init(self, theta: Pixels) -> State:
        zeros = torch.zeros_like(theta, requires_grad=False)
        return {"mean": zeros, "square": zeros.clone(), "steps": torch.zeros((), dtype=torch.int64)}

    @torch.no_grad()
    def update(self, theta: Pixels, gradient: Pixels, state: State, *, progress: float) -> tuple[Pixels, State]:
        first, second = self.betas
        steps = state["steps"] + 1
        mean = first * state["mean"] + (1 - first) * gradient
        square = second * state["square"] + (1 - second) * gradient.square()
        direction = (mean / (1 - first ** int(steps))) / ((square / (1 - second ** int(steps))).sqrt() + _EPSILON)
        moved = theta - self.step_size * rate(self.schedule, progress) * direction
        return moved, {"mean": mean, "square": square, "steps": steps}
