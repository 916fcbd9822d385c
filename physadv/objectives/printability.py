"""How well an artwork survives paper: smoothness, and distance to colours that a printer has (Sharif et al. 2016)."""

import itertools

import torch
from jaxtyping import Float
from torch import Tensor

from physadv.threats.sets import INK_DARKEST, INK_LIGHTEST, Printable

Colours = Float[Tensor, "a 3 h w"]
Alpha = Float[Tensor, "masks 1 h w"]

_TINY = 1e-12


def total_variation(rgb: Colours, alpha: Alpha) -> Float[Tensor, " a"]:
    """Σ |step right| + |step down|, channels averaged, / covered pixels; steps between covered pixels only.

    Sharif et al. take the root of the squared steps, whose gradient is not defined on flat colour.
    """
    right = (rgb.diff(dim=3).abs() * alpha[..., 1:] * alpha[..., :-1]).sum((1, 2, 3))
    down = (rgb.diff(dim=2).abs() * alpha[:, :, 1:] * alpha[:, :, :-1]).sum((1, 2, 3))
    return (right + down) / 3 / _covered(alpha)


def non_printability(rgb: Colours, alpha: Alpha, palette: Float[Tensor, "colours 3"]) -> Float[Tensor, " a"]:
    """The mean over covered pixels of the Euclidean distance to the nearest colour of the palette.

    Sharif et al. multiply the distances to all colours, which vanishes for palettes of any length; both are zero on the
    same colours.
    """
    squared = (rgb[:, None] - palette.to(rgb)[None, :, :, None, None]).square().sum(2).amin(1, keepdim=True)
    return ((squared + _TINY).sqrt() * alpha).sum((1, 2, 3)) / _covered(alpha)


def printable_palette() -> Float[Tensor, "31 3"]:
    """31 sRGB colours inside the gamut of `threats.sets.Printable`.

    The 27 points of a 3 × 3 × 3 lattice from black ink to paper white, its saturated corners moved to the nearest
    colour of the gamut, and four more greys.
    """
    steps = torch.linspace(INK_DARKEST, INK_LIGHTEST, 3).tolist()
    lattice = torch.tensor(list(itertools.product(steps, repeat=3)))
    greys = torch.linspace(INK_DARKEST, INK_LIGHTEST, 6)[1:-1, None].expand(-1, 3)
    return Printable().project(torch.cat([lattice, greys])[:, :, None, None])[:, :, 0, 0]


def _covered(alpha: Alpha) -> Float[Tensor, " masks"]:
    return alpha.sum((1, 2, 3)).clamp(min=_TINY)
