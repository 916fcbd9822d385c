"""What the printer makes of a colour, and what a camera makes of that: fitted to photographs of a chart.

    photograph i of colour c = M_i · R(c) + o_i            in linear RGB

R is the print map: the reflectance relative to bare paper, under the mean light and gloss of the photographs. Its cube
root (near lightness, where errors look alike) is a polynomial of degree 3 in the sRGB colour asked for, or that plus
a smoothed lookup table. M_i and o_i are the camera of photograph i, light and gloss included.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from jaxtyping import Bool, Float

from physadv.calibration.chart import Chart, Reading
from physadv.calibration.difference import linear
from physadv.errors import UserError

DEGREE = 3
_POWERS = np.array([p for p in product(range(DEGREE + 1), repeat=3) if sum(p) <= DEGREE])
LATTICE = 9
# Both chosen by cross-validation on photographs of two printers; halving or tripling them changes little.
_SMOOTH, _SMALL = 0.02, 1e-3
_ROUNDS = 15
# A step of lightness is a small step of light where it is dark: weight of an error in light ~ (light + floor)^-1.2.
_FLOOR, _POWER = 0.02, 1.2
_UNTRUSTED = 1e-6  # weight of a clipped patch: it counts only where there is nothing else


@dataclass(frozen=True)
class Camera:
    """matrix · light + offset: one photograph's camera, light and gloss."""

    matrix: Float[np.ndarray, "3 3"]
    offset: Float[np.ndarray, "3"]

    def __call__(self, light: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
        return light @ self.matrix.T + self.offset


@dataclass(frozen=True)
class PrintMap:
    """sRGB asked for -> linear reflectance. lattice: of the table added to the polynomial, if there is one."""

    polynomial: Float[np.ndarray, "20 3"]
    lattice: Float[np.ndarray, "729 3"] | None = None

    def __call__(self, srgb: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
        root = _powers(srgb) @ self.polynomial
        if self.lattice is not None:
            root = root + _corners(srgb) @ self.lattice
        return np.maximum(root, 0) ** 3


def fit_print_map(srgb: Float[np.ndarray, "n 3"], reflectance: Float[np.ndarray, "n 3"], *, table: bool) -> PrintMap:
    """Least squares on cube roots. The table takes what the polynomial leaves, as smoothly as it can.

    It minimises |F v − rest|² + λ |Δ v|² + ε |v|², F the trilinear weights, Δ the Laplacian of the 9 × 9 × 9 lattice.
    Colours whose reflectance is not known (NaN) count for nothing.
    """
    known = np.isfinite(reflectance).all(1)
    srgb, reflectance = srgb[known], reflectance[known]
    root, terms = np.cbrt(np.maximum(reflectance, 0)), _powers(srgb)
    polynomial = np.linalg.lstsq(terms, root, rcond=None)[0]
    if not table:
        return PrintMap(polynomial)
    weights = _corners(srgb)
    reach = _smoother() @ weights.T
    rest = np.linalg.solve(weights @ reach + np.eye(len(srgb)), root - terms @ polynomial)
    return PrintMap(polynomial, reach @ rest)


def fit_camera(
    reflectance: Float[np.ndarray, "n 3"], seen: Float[np.ndarray, "n 3"], clipped: Bool[np.ndarray, " n"]
) -> Camera:
    """3 × 3 and an offset by weighted least squares; four unclipped patches at least, or it is not determined."""
    terms = np.column_stack([reflectance, np.ones(len(reflectance))])
    root = np.sqrt(_weights(seen, clipped))
    rows = [np.linalg.lstsq(terms * w[:, None], y * w, rcond=None)[0] for w, y in zip(root.T, seen.T, strict=True)]
    solved = np.array(rows)
    return Camera(solved[:, :3], solved[:, 3])


def fit_reflectances(chart: Chart, readings: Sequence[Reading]) -> Float[np.ndarray, "n 3"]:
    """The patches' reflectances, whatever the photographs' cameras: alternating weighted least squares.

    An affine change of all reflectances is a change of all cameras. So it is fixed: the reflectances are the mean of
    the photographs that the cameras would take, each divided by its own paper, which is 1 therefore. Photographs whose
    paper is clipped have no say in that, unless it is in all. NaN: a patch that is clipped in every photograph.
    UserError: the paper is.
    """
    seen, clipped = np.stack([r.mean for r in readings]), np.stack([r.clipped for r in readings])
    bare = paper(chart)
    if clipped[:, bare].all():
        raise UserError("The chart's paper is clipped in every photograph: expose one so that its white is not.")
    clear = np.asarray(~clipped[:, bare].any(1))
    clear = clear if clear.any() else ~clear
    trust = np.where(clipped[clear], _UNTRUSTED, 1.0)[..., None] * np.ones(3)
    reflectance = np.average(_balanced(seen[clear], bare), axis=0, weights=trust)
    for _ in range(_ROUNDS):
        cameras = [fit_camera(reflectance, s, c) for s, c in zip(seen, clipped, strict=True)]
        reflectance = _unmixed(seen, clipped, cameras)
    taken = np.stack([camera(reflectance) for camera, own in zip(cameras, clear, strict=True) if own])
    return np.where(np.asarray(clipped.all(0))[:, None], np.nan, _balanced(taken, bare).mean(0))


def paper(chart: Chart) -> Bool[np.ndarray, " n"]:
    """Patches without ink: those of the lightest colour asked for."""
    light = linear(chart.srgb).sum(1)
    return light == light.max()


def _balanced(seen: Float[np.ndarray, "k n 3"], paper: Bool[np.ndarray, " n"]) -> Float[np.ndarray, "k n 3"]:
    """Each photograph divided by its own paper."""
    return seen / np.maximum(seen[:, paper].mean(1, keepdims=True), 1e-6)


def _unmixed(
    seen: Float[np.ndarray, "k n 3"], clipped: Bool[np.ndarray, "k n"], cameras: Sequence[Camera]
) -> Float[np.ndarray, "n 3"]:
    """The reflectance of every patch, given all cameras: n systems of 3 × 3."""
    weights = _weights(seen, clipped)
    matrices, offsets = np.stack([c.matrix for c in cameras]), np.stack([c.offset for c in cameras])
    normal = np.einsum("kci,knc,kcj->nij", matrices, weights, matrices)
    right = np.einsum("kci,knc,knc->ni", matrices, weights, seen - offsets[:, None])
    return np.linalg.solve(normal + 1e-9 * np.eye(3), right[..., None])[..., 0]


def _weights(seen: Float[np.ndarray, "*n 3"], clipped: Bool[np.ndarray, "*n"]) -> Float[np.ndarray, "*n 3"]:
    return (np.clip(seen, 0, 1) + _FLOOR) ** -_POWER * np.where(clipped, _UNTRUSTED, 1)[..., None]


def _powers(srgb: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 20"]:
    return np.prod(srgb[:, None] ** _POWERS, axis=2)


def _corners(srgb: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 729"]:
    """Trilinear weights of the lattice's points."""
    place = np.clip(srgb, 0, 1) * (LATTICE - 1)
    low = np.minimum(place.astype(int), LATTICE - 2)
    share = place - low
    weights = np.zeros((len(srgb), LATTICE**3))
    for corner in np.array(list(product((0, 1), repeat=3))):
        column = (low + corner) @ np.array([LATTICE**2, LATTICE, 1])
        weights[np.arange(len(srgb)), column] = np.prod(np.where(corner, share, 1 - share), axis=1)
    return weights


@cache
def _smoother() -> Float[np.ndarray, "729 729"]:
    """(λ ΔᵀΔ + ε I)⁻¹ of the lattice."""
    step = np.diff(np.eye(LATTICE), axis=0)
    bend, same = step.T @ step, np.eye(LATTICE)
    axes = (bend, same, same), (same, bend, same), (same, same, bend)
    laplacian = np.sum([np.kron(np.kron(a, b), c) for a, b, c in axes], axis=0)
    return np.linalg.inv(_SMOOTH * laplacian @ laplacian + _SMALL * np.eye(LATTICE**3))
