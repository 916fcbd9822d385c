"""Paper and ink, by spectra of 16 bands: the printer's half of the simulated camera (docs/capture.md).

Shares nothing with physadv. A driver separates sRGB into C, M, Y, K; each ink's dots follow Yule & Nielsen (1951), inks
over each other and over paper Kubelka & Munk (1931): absorptions add up, R = 1 + q − sqrt(q² + 2q) with q = K/S.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from jaxtyping import Float, Int32, UInt8
from PIL import Image

BAND_NM = np.arange(400.0, 701.0, 20.0)
XYZ_TO_SRGB = np.array(
    [[3.2404542, -1.5371385, -0.4985314], [-0.969266, 1.8760108, 0.041556], [0.0556434, -0.2040259, 1.0572252]]
)
D65_XYZ = np.array([0.95047, 1.0, 1.08883])
# Wyman, Sloan & Shirley 2013: height, peak in nm, inverse widths to the left and right of it.
_EYE = (
    ((1.056, 599.8, 37.9, 31.0), (0.362, 442.0, 16.0, 26.7), (-0.065, 501.1, 20.4, 26.2)),
    ((0.821, 568.8, 46.9, 40.5), (0.286, 530.9, 16.3, 31.1)),
    ((1.217, 437.0, 11.8, 36.0), (0.681, 459.0, 26.0, 13.8)),
)


def bump(peak_nm: float, left_nm: float, right_nm: float | None = None) -> Float[np.ndarray, "16"]:
    """A Gaussian of two widths and height 1."""
    width = np.where(peak_nm > BAND_NM, left_nm, right_nm or left_nm)
    return np.exp(-0.5 * ((BAND_NM - peak_nm) / width) ** 2)


def planck(kelvin: float) -> Float[np.ndarray, "16"]:
    """Light of a black body, 1 on average."""
    metres = BAND_NM * 1e-9
    power = metres**-5 / np.expm1(0.014388 / (metres * kelvin))
    return power / power.mean()


@cache
def eye() -> Float[np.ndarray, "16 3"]:
    """Reflectance -> linear sRGB by daylight; perfect white is 1, 1, 1."""
    curves = np.stack([sum(h * bump(p, left, right) for h, p, left, right in curve) for curve in _EYE], 1)
    weights = curves * planck(6500)[:, None]
    return weights / weights.sum(0) * D65_XYZ @ XYZ_TO_SRGB.T


@dataclass(frozen=True)
class Printer:
    """paper: reflectance at 400, 460, 550 and 700 nm. inks: K/S of solid C, M, Y, K. n: of Yule and Nielsen.

    black: power of the grey component with which black ink sets in. surface: what any surface reflects, ink or not.
    """

    paper: tuple[float, float, float, float]
    inks: tuple[float, float, float, float]
    n: float
    black: float
    surface: float

    def reflectance(self, rgb: UInt8[np.ndarray, "m 3"]) -> Float[np.ndarray, "m 16"]:
        """What the print of those sRGB colours reflects. The driver spaces greys between black and paper."""
        wanted = 1 - rgb / 255.0
        return self._printed(np.interp(wanted, *self._driver()))

    def _driver(self) -> tuple[Float[np.ndarray, "256"], Float[np.ndarray, "256"]]:
        """1 − sRGB asked for -> ink, so that a grey's luminance lies where it should between black and paper."""
        ink = np.linspace(0, 1, 256)
        seen = self._printed(np.repeat(ink[:, None], 3, 1)) @ eye()[:, 1]
        asked = decoded(1 - ink) * (seen[0] - seen[-1]) + seen[-1]
        return ink, np.interp(-asked, -seen, ink)

    def _printed(self, cmy: Float[np.ndarray, "m 3"]) -> Float[np.ndarray, "m 16"]:
        grey = cmy.min(1, keepdims=True) ** self.black
        amounts = np.concatenate([cmy - 0.5 * grey * cmy.min(1, keepdims=True), grey], 1)
        bare = _absorption(self._paper())
        total = bare + sum(self._dots(i, amounts[:, i, None]) - bare for i in range(4))
        return self.surface + (1 - self.surface) * _reflected(total)

    def _dots(self, ink: int, amount: Float[np.ndarray, "m 1"]) -> Float[np.ndarray, "m 16"]:
        """K/S of one ink's halftone: R^(1/n) = (1 − a) paper^(1/n) + a solid^(1/n)."""
        paper, solid = self._paper(), _reflected(_absorption(self._paper()) + self.inks[ink] * _INKS[ink])
        return _absorption(((1 - amount) * paper ** (1 / self.n) + amount * solid ** (1 / self.n)) ** self.n)

    def _paper(self) -> Float[np.ndarray, "16"]:
        return np.interp(BAND_NM, (400, 460, 550, 700), self.paper)


# C, M, Y, K: where they absorb, and where they should not but do.
_INKS = np.stack(
    [
        bump(640, 55, 80) + 0.05 * bump(430, 60),
        bump(545, 34, 24) + 0.12 * bump(430, 50),
        bump(430, 60, 36) + 0.01,
        np.linspace(1.05, 0.95, len(BAND_NM)),
    ]
)
INKJET = Printer(paper=(0.6, 0.66, 0.72, 0.76), inks=(9.0, 11.0, 8.0, 60.0), n=1.7, black=3.0, surface=0.007)
LASER = Printer(paper=(0.63, 0.68, 0.73, 0.75), inks=(7.0, 8.0, 7.0, 70.0), n=2.1, black=1.5, surface=0.008)


def _absorption(reflectance: Float[np.ndarray, "*m 16"]) -> Float[np.ndarray, "*m 16"]:
    return (1 - reflectance) ** 2 / (2 * reflectance)


def _reflected(absorption: Float[np.ndarray, "*m 16"]) -> Float[np.ndarray, "*m 16"]:
    return 1 + absorption - np.sqrt(absorption**2 + 2 * absorption)


def decoded(srgb: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """sRGB in [0, 1] -> linear (IEC 61966-2-1)."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((np.maximum(srgb, 0) + 0.055) / 1.055) ** 2.4)


def encoded(linear: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """Linear in [0, 1] -> sRGB."""
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 0) ** (1 / 2.4) - 0.055)


@dataclass(frozen=True)
class Surface:
    """A flat thing in mm, origin at its top-left: which spectrum is where; -1: nothing is there."""

    spectra: Float[np.ndarray, "m 16"]
    index: Int32[np.ndarray, "h w"]
    size_mm: tuple[float, float]

    def covered(self, other: "Surface", at_mm: Sequence[float]) -> "Surface":
        """With another thing of the same px per mm laid on it, its top-left at `at_mm`."""
        x, y = (round(mm * self.index.shape[1] / self.size_mm[0]) for mm in at_mm)
        height, width = other.index.shape
        index = self.index.copy()
        window = index[y : y + height, x : x + width]
        np.copyto(window, other.index + len(self.spectra), where=other.index >= 0)
        return replace(self, spectra=np.concatenate([self.spectra, other.spectra]), index=index)


def printed(picture: Image.Image, printer: Printer, size_mm: tuple[float, float]) -> Surface:
    """A picture on paper; where it is transparent the paper is cut away."""
    colours, index = _palette(picture)
    return Surface(printer.reflectance(colours), index, size_mm)


def painted(picture: Image.Image, size_mm: tuple[float, float]) -> Surface:
    """A sign: three broad paints mixed so that by daylight each colour looks as in the picture, but for gloss."""
    colours, index = _palette(picture)
    blue, red = 1 / (1 + np.exp((BAND_NM - 495) / 9)), 1 / (1 + np.exp((588 - BAND_NM) / 9))
    paints = np.stack([red, 1 - red - blue, blue])
    spectra = decoded(colours / 255.0) @ np.linalg.inv(paints @ eye()) @ paints
    return Surface(np.clip(0.02 + 0.78 * spectra, 0.02, 0.9), index, size_mm)


def _palette(picture: Image.Image) -> tuple[UInt8[np.ndarray, "m 3"], Int32[np.ndarray, "h w"]]:
    rgba = np.asarray(picture.convert("RGBA"))
    packed = rgba[..., 0].astype(np.int32) << 16 | rgba[..., 1].astype(np.int32) << 8 | rgba[..., 2]
    row = np.zeros(1 << 24, np.int32)  # by colour: many times as fast as sorting the pixels
    row[packed] = 1
    (used,) = np.nonzero(row)
    row[used] = np.arange(len(used))
    colours = np.stack([used >> 16, used >> 8 & 255, used & 255], 1).astype(np.uint8)
    return colours, np.where(rgba[..., 3] < 128, np.int32(-1), row[packed])
