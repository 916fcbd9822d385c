"""Printed tags in a photograph, and their corners to a fraction of a pixel.

A camera averages light, so the place where a blurred edge is half as bright is its place in linear light only. On the
encoded photograph black tags come out 2.6 % too small.
"""

from collections.abc import Collection, Iterator
from functools import cache

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from physadv.errors import UserError

Corners = Float[np.ndarray, "4 2"]
"""TL, TR, BR, BL of the black square, px; pixel centres at +0.5 (transforms/warp.py)."""

# By family: OpenCV's dictionary, and modules along a side of the black square.
FAMILIES = {"36h11": (cv2.aruco.DICT_APRILTAG_36h11, 8), "4x4_50": (cv2.aruco.DICT_4X4_50, 6)}
SMALLEST_PX = 12.0
SAMPLES = 20  # along each side
ENDS = 0.12  # share of a side left out at each end: a blurred corner is round
STEP_PX = 0.25
ROUNDS = 2
MIN_CONTRAST = 0.02  # of linear white: below it there is no edge
COARSE_PX = 1600  # longer side at which tags are searched first
ENLARGED_PX, LARGEST_PX = 2600, 6000  # longer side up to which a photograph is enlarged twice and thrice, or half
LUMINANCE = np.array([0.2126, 0.7152, 0.0722])


def find(pixels: UInt8[np.ndarray, "h w 3"], family: str, *, wanted: Collection[int]) -> dict[int, Corners]:
    """The tags that are `wanted`, by number, down to about 14 px wide.

    The photograph is searched scaled down, as it is, and enlarged, until all that are `wanted` are found. Where a
    number is seen more than once, the larger tag counts. Corners are intersections of lines fitted to the black
    border's sides in linear light. UserError: unknown family.
    """
    if family not in FAMILIES:
        raise UserError(f"There are no tags {family!r} here; use {' or '.join(FAMILIES)}.")
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    modules = FAMILIES[family][1]
    sure: dict[int, Corners] = {}
    rough: dict[int, Corners] = {}  # no lines could be fitted: a larger picture may show better where they are
    for scale in _scales(max(grey.shape)):
        if sure.keys() >= set(wanted):
            break
        for number, corners in _detect(grey, family, scale):
            if (
                number in wanted
                and _side_px(corners) >= SMALLEST_PX
                and (number not in sure or _is_elsewhere(corners, sure[number]))
            ):
                fitted = refine(pixels, corners, modules=modules)
                (rough if fitted is corners else sure)[number] = fitted
    return dict(sorted((rough | sure).items()))


def refine(pixels: UInt8[np.ndarray, "h w 3"], corners: Corners, *, modules: int) -> Corners:
    """The corners again, from lines fitted to 20 points of each side; as they were where the sides cannot be seen."""
    window, origin = _linear_window(pixels, corners)
    local = refined = corners - origin
    for _ in range(ROUNDS):
        sides = [_side(window, refined, side, modules) for side in range(4)]
        lines = [line for line in sides if line is not None]
        if len(lines) < 4:
            return corners
        refined = np.array([_crossing(lines[side - 1], lines[side]) for side in range(4)])
    moved = np.linalg.norm(refined - local, axis=1).max()
    return refined + origin if moved < max(1.5, 0.6 * _side_px(local) / modules) else corners


def _scales(side_px: int) -> Iterator[float]:
    """Coarse first; at its own size; enlarged, for tags too small to read."""
    if side_px > COARSE_PX:
        yield COARSE_PX / side_px
    yield 1.0
    yield from (factor for factor in (2.0, 3.0) if side_px * factor <= ENLARGED_PX)
    if 2 * side_px > ENLARGED_PX and 1.5 * side_px <= LARGEST_PX:
        yield 1.5


@cache
def _detector(family: str, side_px: int) -> cv2.aruco.ArucoDetector:
    """For photographs of that longer side, whatever their scale."""
    parameters = cv2.aruco.DetectorParameters()
    parameters.cornerRefinementMethod = cv2.aruco.CORNER_REFINE_SUBPIX
    parameters.minMarkerPerimeterRate = 4 * SMALLEST_PX / side_px
    parameters.errorCorrectionRate = 0.3  # a misread bit or two; more would find tags where there are none
    parameters.perspectiveRemovePixelPerCell = 8
    parameters.perspectiveRemoveIgnoredMarginPerCell = 0.25  # blur runs over a module's edges: its middle is read
    return cv2.aruco.ArucoDetector(cv2.aruco.getPredefinedDictionary(FAMILIES[family][0]), parameters)


def _detect(grey: UInt8[np.ndarray, "h w"], family: str, scale: float) -> Iterator[tuple[int, Corners]]:
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    image = grey if scale == 1 else cv2.resize(grey, None, fx=scale, fy=scale, interpolation=how)
    ratio = np.array([image.shape[1] / grey.shape[1], image.shape[0] / grey.shape[0]])
    quads, numbers, _ = _detector(family, max(grey.shape)).detectMarkers(image)
    for quad, number in zip(quads, [] if numbers is None else numbers.ravel(), strict=True):
        yield int(number), (quad.reshape(4, 2).astype(float) + 0.5) / ratio


def _is_elsewhere(corners: Corners, known: Corners) -> bool:
    """A larger tag of the same number; the same one, seen at another scale, is none."""
    apart = np.linalg.norm(corners.mean(0) - known.mean(0)) > _side_px(known) / 2
    return bool(apart and _side_px(corners) > _side_px(known))


def _side_px(corners: Corners) -> float:
    return float(np.sqrt(cv2.contourArea(corners.astype(np.float32))))


def _linear_window(
    pixels: UInt8[np.ndarray, "h w 3"], corners: Corners
) -> tuple[Float[np.ndarray, "y x"], Float[np.ndarray, "2"]]:
    """Linear luminance round a tag, and where its top-left is."""
    reach = 0.5 * _side_px(corners) + 4
    low = np.maximum(np.floor(corners.min(0) - reach), 0).astype(int)
    high = np.ceil(corners.max(0) + reach).astype(int)
    window = _decoding()[pixels[low[1] : high[1], low[0] : high[0]]] @ LUMINANCE
    return window.astype(np.float32), low.astype(float)


@cache
def _decoding() -> Float[np.ndarray, "256"]:
    """sRGB levels -> linear light (IEC 61966-2-1)."""
    level = np.arange(256) / 255
    return np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)


def _side(window: Float[np.ndarray, "y x"], corners: Corners, side: int, modules: int) -> Float[np.ndarray, "4"] | None:
    """Direction and a point of the line through the side's edge (from corner `side` to the next)."""
    start, end = corners[side], corners[(side + 1) % 4]
    along = end - start
    outward = np.array([along[1], -along[0]]) / max(np.linalg.norm(along), 1e-9)
    reach = max(1.5, 0.9 * _depth_px(corners, side) / modules)
    away = np.arange(-reach, reach + STEP_PX / 2, STEP_PX)
    foot = start + np.linspace(ENDS, 1 - ENDS, SAMPLES)[:, None] * along
    profiles = _sampled(window, foot[:, None] + away[:, None] * outward)
    crossing = _half_way(profiles, away)
    points = (foot + crossing[:, None] * outward)[~np.isnan(crossing)]
    if len(points) < SAMPLES // 2:
        return None
    centre = points.mean(0)
    line = cv2.fitLine((points - centre).astype(np.float32), cv2.DIST_HUBER, 0, 0.001, 0.001).ravel().astype(float)
    return np.concatenate([line[:2], line[2:] + centre])


def _depth_px(corners: Corners, side: int) -> float:
    """How far the opposite side is from this one: foreshortened tags are narrower across than along."""
    start, end = corners[side], corners[(side + 1) % 4]
    middle = (corners[(side + 2) % 4] + corners[(side + 3) % 4]) / 2 - start
    along = (end - start) / max(np.linalg.norm(end - start), 1e-9)
    return float(abs(along[0] * middle[1] - along[1] * middle[0]))


def _sampled(window: Float[np.ndarray, "y x"], points: Float[np.ndarray, "s k 2"]) -> Float[np.ndarray, "s k"]:
    at = (points - 0.5).astype(np.float32)
    return cv2.remap(window, at[..., 0], at[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def _half_way(profiles: Float[np.ndarray, "s k"], away: Float[np.ndarray, " k"]) -> Float[np.ndarray, " s"]:
    """Where each profile, from black inside to white outside, passes the middle between the two, nearest to 0."""
    inner, outer = away < 0, away > 0.5 * away[-1]
    black, white = np.median(profiles[:, inner].min(1)), np.median(profiles[:, outer].max(1))
    if white - black < MIN_CONTRAST:
        return np.full(len(profiles), np.nan)
    share = (profiles - (black + white) / 2) / (white - black)
    rises = (share[:, :-1] < 0) & (share[:, 1:] >= 0)
    places = away[:-1] - STEP_PX * share[:, :-1] / np.where(rises, share[:, 1:] - share[:, :-1], 1.0)
    distance = np.where(rises, np.abs(places), np.inf)
    best = distance.argmin(1)
    rows = np.arange(len(profiles))
    return np.where(np.isfinite(distance[rows, best]), places[rows, best], np.nan)


def _crossing(one: Float[np.ndarray, "4"], other: Float[np.ndarray, "4"]) -> Float[np.ndarray, "2"]:
    """Where two lines (direction, point) meet."""
    steps = np.linalg.lstsq(np.stack([one[:2], -other[:2]], 1), other[2:] - one[2:], rcond=None)[0]
    return one[2:] + steps[0] * one[:2]
