"""Blur as one banded matrix per axis: K_y · image · K_xᵀ."""

import torch
from jaxtyping import Float
from torch import Tensor


def blur_matrices(
    spread: Float[Tensor, "n 4"], height: int, width: int
) -> tuple[Float[Tensor, "n h h"], Float[Tensor, "n w w"]]:
    """Gaussian with the variance of lens and shutter together, rows summing to 1: no light is lost at the edges."""
    return _matrix(spread[:, 1], spread[:, 3], height), _matrix(spread[:, 0], spread[:, 2], width)


def _matrix(variance: Float[Tensor, " n"], length: Float[Tensor, " n"], size: int) -> Float[Tensor, "n s s"]:
    # A pixel integrates the kernel over its own width: a difference of error functions, exact down to sigma 0.
    position = torch.arange(size, device=variance.device, dtype=variance.dtype)
    gap = (position[None, :, None] - position[None, None, :]).abs()
    total = variance + length**2 / 12  # a shutter of length L has variance L² / 12
    scale = (2 * total).clamp(min=1e-8).sqrt()[:, None, None]
    kernel = torch.erf((gap + 0.5) / scale) - torch.erf((gap - 0.5) / scale)
    return kernel / kernel.sum(2, keepdim=True)


def separable(
    images: Float[Tensor, "n c h w"], rows: Float[Tensor, "n h h"], columns: Float[Tensor, "n w w"]
) -> Float[Tensor, "n c h w"]:
    """Apply both matrices to every channel."""
    return rows[:, None] @ images @ columns[:, None].mT
