"""How different two colours look: CIEDE2000, and the way there from linear RGB."""

import numpy as np
import torch
from jaxtyping import Float

from physadv.transforms.colour import to_linear, to_srgb

# Linear sRGB -> XYZ relative to its white, D65 (IEC 61966-2-1; rows sum to the white point before the division).
_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_TO_XYZ = _XYZ / _XYZ.sum(1, keepdims=True)


def linear(encoded: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """sRGB in [0, 1] -> linear light, in double precision."""
    return to_linear(torch.from_numpy(np.asarray(encoded, dtype=np.float64))).numpy()


def encoded(light: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """Linear light -> sRGB, kept in [0, 1] as a file keeps it."""
    return to_srgb(torch.from_numpy(np.asarray(np.clip(light, 0, 1), np.float64))).numpy()


def lab(light: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """Linear sRGB, kept in [0, 1], -> CIE L*a*b* under D65."""
    xyz = np.clip(light, 0, 1) @ _TO_XYZ.T
    root = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    x, y, z = np.moveaxis(root, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def difference(one: Float[np.ndarray, "n 3"], other: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, " n"]:
    """CIEDE2000 between colours in linear sRGB."""
    return ciede2000(lab(one), lab(other))


def ciede2000(one: Float[np.ndarray, "n 3"], other: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, " n"]:
    """Colour difference between L*a*b* colours, with k_L = k_C = k_H = 1.

    Sharma, Wu & Dalal, "The CIEDE2000 color-difference formula: implementation notes, supplementary test data, and
    mathematical observations", Color Research & Application 30 (2005).
    """
    (l1, c1, h1), (l2, c2, h2) = _polar(one, other)
    colourful = c1 * c2 > 0
    turn = np.where(colourful, (h2 - h1 + 180) % 360 - 180, 0.0)
    # Exactly opposite hues turn by +180, not -180; the mean hue lies between them on the shorter way round.
    turn = np.where(turn == -180, 180.0, turn)
    lightness, c = (l1 + l2) / 2, (c1 + c2) / 2
    h = np.where(colourful, _mean_hue(h1, h2), h1 + h2)
    d_l, d_c, d_h = l2 - l1, c2 - c1, 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn) / 2)
    t = 1 - 0.17 * _cos(h - 30) + 0.24 * _cos(2 * h) + 0.32 * _cos(3 * h + 6) - 0.20 * _cos(4 * h - 63)
    s_l = 1 + 0.015 * (lightness - 50) ** 2 / np.sqrt(20 + (lightness - 50) ** 2)
    s_c, s_h = 1 + 0.045 * c, 1 + 0.015 * c * t
    rotation = -np.sin(np.radians(60 * np.exp(-(((h - 275) / 25) ** 2)))) * 2 * _saturated(c)
    parts = d_l / s_l, d_c / s_c, d_h / s_h
    return np.sqrt(np.maximum(sum(part**2 for part in parts) + rotation * parts[1] * parts[2], 0))


def _polar(
    one: Float[np.ndarray, "n 3"], other: Float[np.ndarray, "n 3"]
) -> tuple[tuple[Float[np.ndarray, " n"], ...], ...]:
    """Lightness, chroma and hue in degrees of both, after the correction of a* near grey."""
    chroma = (np.hypot(one[..., 1], one[..., 2]) + np.hypot(other[..., 1], other[..., 2])) / 2
    stretch = 1 + 0.5 * (1 - _saturated(chroma))
    return tuple(
        (
            colour[..., 0],
            np.hypot(stretch * colour[..., 1], colour[..., 2]),
            np.degrees(np.arctan2(colour[..., 2], stretch * colour[..., 1])) % 360,
        )
        for colour in (np.asarray(one, float), np.asarray(other, float))
    )


def _mean_hue(h1: Float[np.ndarray, " n"], h2: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    total = h1 + h2
    far = np.abs(h1 - h2) > 180
    return np.where(far, np.where(total < 360, total + 360, total - 360), total) / 2


def _saturated(chroma: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    return np.sqrt(chroma**7 / (chroma**7 + 25.0**7))


def _cos(degrees: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    return np.cos(np.radians(degrees))
