"""The artwork's colours by name: as asked for, as printed, as the world's printers would have printed them."""

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from physadv.calibration.difference import difference, encoded, lab
from physadv.threats import Artwork
from physadv.transforms.print import Ink, monomials
from physadv.transforms.stages import uniforms

GRID = 48  # samples across the artwork
FEWEST = 0.04  # of the artwork: a colour that covers less is left out
PRINTERS = 64
LEAST_CHROMA = 14.0
# Upper ends in degrees; beyond the last come magentas, then reds again.
HUES = {"reds": 16, "oranges": 44, "yellows": 70, "greens": 165, "cyans": 200, "blues": 258, "purples": 292}


def colours(
    artwork: Artwork, response: Float[Tensor, "3 11"], inks: Sequence[Ink], *, seed: int
) -> list[dict[str, Any]]:
    """One row per named colour that covers enough of the artwork, the one that is printed worst first.

    asked, printed, foretold: mean sRGB, 0 to 255, relative to the face's white. difference: CIEDE2000 of printed from
    foretold, the mean over the world's printers; beyond: larger than that of 95 % of those printers from their mean.
    """
    terms, names = _samples(artwork)
    printers = torch.cat([_printers(ink, seed) for ink in inks])
    rows = []
    for name in dict.fromkeys(names):
        which = np.array([one == name for one in names])
        if which.mean() < FEWEST:
            continue
        mean = terms[which].mean(0)
        light, foretold = np.clip(_light(response[None], mean)[0], 0, 1), np.clip(_light(printers, mean), 0, 1)
        middle = foretold.mean(0)
        apart = float(difference(light[None], middle[None])[0])
        spread = float(np.quantile(difference(foretold, middle[None].repeat(len(foretold), 0)), 0.95))
        rows.append(
            {
                "name": name,
                "share": float(which.mean()),
                "asked": _levels(mean[1:4].numpy()),
                "printed": _levels(light),
                "foretold": _levels(middle),
                "difference": apart,
                "spread": spread,
                "beyond": apart > spread,
            }
        )
    return sorted(rows, key=lambda row: -row["difference"])


def colour_name(rgb: Float[np.ndarray, "3"]) -> str:
    """Of a linear colour: whites, greys, blacks by CIE L*a*b*, else by its hue."""
    lightness, a, b = lab(rgb[None])[0]
    if np.hypot(a, b) < LEAST_CHROMA:
        return "whites" if lightness > 85 else "blacks" if lightness < 30 else "greys"
    hue = 360 * colorsys.rgb_to_hsv(*encoded(rgb))[0]
    if hue >= 345:
        return "reds"
    return next((name for name, end in HUES.items() if hue < end), "magentas")


def _samples(artwork: Artwork) -> tuple[Float[Tensor, "n 11"], list[str]]:
    """Monomials of the artwork's opaque samples, and what their colours are called."""
    terms = adaptive_avg_pool2d(monomials(artwork.rgb[:1].cpu(), artwork.alpha[:1].cpu()), GRID)[0].flatten(1).T
    opaque = terms[terms[:, 0] > 0.5]
    opaque = opaque / opaque[:, :1]
    return opaque, [colour_name(one) for one in opaque[:, 1:4].double().numpy()]


def _printers(ink: Ink, seed: int) -> Float[Tensor, "n 3 11"]:
    return ink.sample(uniforms(range(PRINTERS), ink.dims, seed=seed))["response"]


def _light(response: Float[Tensor, "n 3 11"], terms: Float[Tensor, "11"]) -> Float[np.ndarray, "n 3"]:
    return (response @ terms).double().numpy()


def _levels(light: Float[np.ndarray, "3"]) -> list[int]:
    return [int(value) for value in np.round(255 * encoded(np.asarray(light, float)))]
