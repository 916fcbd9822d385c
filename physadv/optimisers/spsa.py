"""Gradients from losses alone: antithetic probes along random directions."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from physadv.errors import UserError
from physadv.optimisers.base import Landscape, Pixels


@dataclass(frozen=True)
class SPSA:
    """g = mean over `pairs` of (L(θ + σu) − L(θ − σu)) / 2σ · u; every u_i is −1 or 1 (Spall 1992; Uesato et al. 2018).

    u is constant on a grid of tiles (the prior of Ilyas et al. 2019), so in expectation g is, to first order in σ, the
    gradient averaged within each tile, which is exactly its projection onto tiled pictures.
    sigma: in colour. tiles: along the longer side of θ; one per pixel where θ has fewer.
    """

    pairs: int = 5
    sigma: float = 0.1
    tiles: int = 8

    def __post_init__(self) -> None:
        if self.pairs < 1:
            raise UserError(f"A gradient from {self.pairs} pairs of probes is none: give 1 or more.")
        if not 0 < self.sigma < 1:
            raise UserError(f"Probes at a distance of {self.sigma} say nothing: give more than 0 and less than 1.")
        if self.tiles < 1:
            raise UserError(f"A picture cannot have {self.tiles} tiles along its side: give 1 or more.")

    @property
    def exact(self) -> bool:
        return False

    @property
    def evaluations(self) -> int:
        return 2 * self.pairs

    @torch.no_grad()
    def __call__(self, theta: Pixels, landscape: Landscape) -> tuple[Pixels, Float[Tensor, " a"]]:
        """The estimate, and the mean of the probes' losses: that of θ up to O(σ²), for no query more.

        A probe is a picture: its colours end at 0 and 1, where only one of the pair can move.
        """
        gradient, losses = torch.zeros_like(theta), theta.new_zeros(len(theta))
        for _ in range(self.pairs):
            direction = self._tiled(theta, landscape.generator)
            probe = self.sigma * direction
            above, below = (landscape.loss(picture.clamp(0, 1)) for picture in (theta + probe, theta - probe))
            slope = (above - below) / (2 * self.sigma * self.pairs)
            gradient += slope[:, None, None, None] * direction
            losses += (above + below) / (2 * self.pairs)
        return gradient / self._area(theta), losses

    def _directions(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.randint(0, 2, shape, generator=generator) * 2.0 - 1

    def _tiled(self, theta: Pixels, generator: torch.Generator) -> Pixels:
        rows, columns = self._grid(theta)
        tiles = self._directions((len(theta), 3, int(rows[-1]) + 1, int(columns[-1]) + 1), generator)
        return tiles.to(theta)[:, :, rows[:, None], columns]

    def _area(self, theta: Pixels) -> Float[Tensor, "h w"]:
        """Pixels in the tile of each pixel."""
        rows, columns = self._grid(theta)
        return (rows.bincount()[rows][:, None] * columns.bincount()[columns]).to(theta)

    def _grid(self, theta: Pixels) -> tuple[Int[Tensor, " h"], Int[Tensor, " w"]]:
        """The tile of each row and of each column."""
        height, width = theta.shape[2:]
        side = min(1.0, self.tiles / max(height, width))
        rows, columns = (torch.arange(n) * max(1, round(n * side)) // n for n in (height, width))
        return rows, columns


@dataclass(frozen=True)
class NES(SPSA):
    """The same with normal u_i (Wierstra et al. 2014; Ilyas et al. 2018)."""

    def _directions(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.randn(shape, generator=generator)
