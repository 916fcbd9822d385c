"""Random search: one square at a time, kept where it helps (Andriushchenko et al. 2020; Croce et al. 2022)."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from physadv.errors import UserError
from physadv.optimisers.base import Landscape, Pixels, State, check_step_size


@dataclass(frozen=True)
class RandomSearch:
    """θ' = project(θ ± step_size within a square), kept by each artwork whose loss it lowers on the same views.

    step_size: in colour; 1 reaches the corners of S: base ± epsilon in an l∞ ball, 0 and 1 in the box.
    share: of the picture, that the first and the last square cover; geometric between them. Before any square,
    vertical stripes are proposed.
    Where views stay (`common`), the loss of θ is remembered; where they change, it is asked again.
    """

    step_size: float = 1.0
    share: tuple[float, float] = (0.1, 0.003)

    def __post_init__(self) -> None:
        check_step_size(self.step_size)
        if not all(0 < share <= 1 for share in self.share):
            raise UserError(f"Squares cannot cover {self.share} of a picture: give more than 0 and at most 1.")

    @property
    def gradients(self) -> bool:
        return False

    @property
    def evaluations(self) -> int:
        """θ and its rival where views change; where they stay, the rival alone from the second step on."""
        return 2

    def init(self, theta: Pixels) -> State:
        return {"loss": theta.new_full((len(theta),), torch.inf)}

    @torch.no_grad()
    def step(self, theta: Pixels, landscape: Landscape, state: State) -> tuple[Pixels, State, Float[Tensor, " a"]]:
        """The better of θ and one proposal. The state remembers its loss."""
        first = bool(state["loss"].isinf().all())
        losses = state["loss"] if landscape.common and not first else landscape.loss(theta)
        move = self._stripes(theta, landscape) if first else self._square(theta, landscape)
        proposal = landscape.project(theta + move)
        loss = landscape.loss(proposal)
        better = loss < losses
        moved = torch.where(better[:, None, None, None], proposal, theta)
        return moved.detach(), {"loss": torch.where(better, loss, losses)}, losses

    def _stripes(self, theta: Pixels, landscape: Landscape) -> Float[Tensor, "a 3 1 w"]:
        """A colour for each column of each artwork."""
        return self.step_size * _signs((len(theta), 3, 1, theta.shape[3]), theta, landscape.generator)

    def _square(self, theta: Pixels, landscape: Landscape) -> Pixels:
        """One colour in one square of each artwork, 0 elsewhere."""
        inside = _window(theta, self._side(theta, landscape.progress), landscape.generator)
        return self.step_size * inside * _signs((len(theta), 3, 1, 1), theta, landscape.generator)

    def _side(self, theta: Pixels, progress: float) -> int:
        height, width = theta.shape[2:]
        first, last = self.share
        share = first * (last / first) ** progress
        return min(height, width, max(1, round(math.sqrt(share * height * width))))


def _signs(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    return (torch.randint(0, 2, shape, generator=generator) * 2 - 1).to(like)


def _window(theta: Pixels, side: int, generator: torch.Generator) -> Bool[Tensor, "a 1 h w"]:
    """A square per artwork, wherever it fits."""
    rows, columns = (_span(len(theta), extent, side, generator).to(theta.device) for extent in theta.shape[2:])
    return rows[:, None, :, None] & columns[:, None, None, :]


def _span(count: int, extent: int, side: int, generator: torch.Generator) -> Bool[Tensor, "count extent"]:
    start = torch.randint(0, extent - side + 1, (count, 1), generator=generator)
    at = torch.arange(extent)
    return (at >= start) & (at < start + side)
