"""The photograph foretold: a sign with a printed artwork, from the same place and in the same light as an actual one.

The light is measured on the bare part of the face in the same photograph (`read_sign`); paper and ink are what a print
map says, relative to bare paper, times the paper's own reflectance, which is fitted to other photographs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32

from physadv.calibration.difference import difference, linear
from physadv.calibration.face import Face, Sign, Window, blurred, drawn_in, light_over, look
from physadv.calibration.fit import PrintMap


@dataclass(frozen=True)
class Pair:
    """One photograph of the sign with the artwork, and what was measured of its light.

    light: its course over the face. print: the artwork's reflectance relative to its paper, drawn into the window.
    """

    sign: Sign
    window: Window
    light: Float[np.ndarray, "h w"]
    face: Float[np.ndarray, "h w 3"]
    print: Float[np.ndarray, "h w 3"]
    printed: Bool[np.ndarray, "h w"]
    whole: Bool[np.ndarray, "h w"]


@dataclass(frozen=True)
class Sheeting:
    """What the sign's own face has in place of its drawing, relative to its white: dark = share of white where 0 is
    drawn. paper: 3 x 3 and offset from reflectances relative to paper to the same scale."""

    white: Float[np.ndarray, "3"]
    dark: Float[np.ndarray, "3"]
    paper: Float[np.ndarray, "4 3"]


def proof(srgb: Float32[np.ndarray, "h w 3"], print_map: PrintMap) -> Float32[np.ndarray, "h w 3"]:
    """What a print map makes of a picture: linear reflectance relative to paper."""
    levels = np.round(srgb.reshape(-1, 3) * 255).astype(np.int64)
    packed, where = np.unique(levels @ np.array([65536, 256, 1]), return_inverse=True)
    colours = np.stack([packed >> 16, packed >> 8 & 255, packed & 255], 1) / 255
    return print_map(colours)[where].reshape(srgb.shape).astype(np.float32)


def pair(image: Float[np.ndarray, "y x 3"], face: Face, sign: Sign, reflectance: Float32[np.ndarray, "h w 3"]) -> Pair:
    """reflectance: of the artwork, in the face's raster; it counts where the face is not bare."""
    window = look(image, face, sign.corners_px)
    how = sign.corners_px, window.origin, window.inside.shape
    printed = drawn_in((1 - face.bare) * face.alpha, *how) > 0.99
    whole = drawn_in(face.alpha, *how) > 0.99
    drawn = drawn_in(linear(face.srgb).astype(np.float32), *how).astype(float)
    light = light_over(drawn, window, sign)
    return Pair(sign, window, light, drawn, drawn_in(reflectance, *how).astype(float), printed, whole)


def fit_sheeting(pairs: Sequence[Pair], white: Float[np.ndarray, "3"]) -> Sheeting:
    """The face's dark end and the paper, from photographs in which nothing is clipped (all, if there is none).

    white: linear colour of the face's lightest part as drawn.
    """
    clear = [one for one in pairs if one.sign.clipped < 0.05] or list(pairs)
    dark = np.median([one.sign.offset / (one.sign.gain * white + one.sign.offset) for one in clear], axis=0)
    rough = Sheeting(white, dark, np.vstack([np.eye(3), np.zeros(3)]))
    terms, wanted = [], []
    for one in clear:
        level, veil = lit(one.sign, rough)
        use = np.flatnonzero(one.printed.ravel())[:: max(1, one.printed.sum() // 300)]
        shown = blurred(one.print, one.sign.blur_px).reshape(-1, 3)[use]
        seen = one.window.light.reshape(-1, 3)[use] / one.light.ravel()[use, None]
        terms.append(np.column_stack([shown, np.ones(len(shown))]))
        wanted.append((seen - veil) / level)
    paper = np.linalg.lstsq(np.vstack(terms), np.vstack(wanted), rcond=None)[0]
    return Sheeting(white, dark, paper)


def lit(sign: Sign, sheeting: Sheeting) -> tuple[Float[np.ndarray, "3"], float]:
    """The photograph's light on white, per channel, and stray light that the face's own dark end does not explain."""
    level = sign.gain * sheeting.white + sign.offset
    over = sign.offset - sheeting.dark * level
    return level, float(np.clip(np.median(over), -0.03, 0.1))


def foretell(one: Pair, sheeting: Sheeting) -> Float[np.ndarray, "h w 3"]:
    """The window as it should look, linear light, without noise."""
    level, veil = lit(one.sign, sheeting)
    face = sheeting.dark + (1 - sheeting.dark) * one.face / sheeting.white
    paper = one.print @ sheeting.paper[:3] + sheeting.paper[3]
    shown = np.where(one.printed[..., None], paper, face)
    made = (blurred(shown, one.sign.blur_px) * level + veil) * one.light[..., None]
    return np.clip(made, 0, 1)


def error(one: Pair, made: Float[np.ndarray, "h w 3"]) -> tuple[float, float]:
    """Mean CIEDE2000 to the actual photograph, noise included: inside the whole sign, and on the artwork alone."""
    apart = difference(made.reshape(-1, 3), one.window.light.reshape(-1, 3)).reshape(one.whole.shape)
    return float(apart[one.whole].mean()), float(apart[one.printed].mean())
