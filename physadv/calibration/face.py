"""A known sign in a photograph: how light, gloss, lens and sensor changed its face.

    photograph at x = (gain · face(H⁻¹ x) * Gaussian(sigma) + offset) · light(x)          per channel, in linear RGB

The face is drawn through the sign's plane H, shifted by less than a few px where that fits better, and gain, offset and
sigma are those that leave the least.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32

from physadv.calibration.chart import homography
from physadv.calibration.difference import encoded, linear
from physadv.calibration.sensor import non_negative
from physadv.errors import UserError

_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])
_SIGMAS_PX = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.15, 1.3, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 5.5, 7.5)
_FINE, _FINE_MAX_PX = 4, 2400  # samples of a px across; side of what is drawn at most
_MARGIN_PX = 3
_SMALLEST_PX = 24  # of the face: below it there is nothing to measure
_MOVED_PX = 4.0  # how far the face may be from where its corners say: hand-marked, or on a bent plate
_STEEP = 0.02  # change of the face's light from px to px above which a px does not count as flat
_BLOCK_PX = 6
_ROUNDS = 4
_FEWEST_PX, _PRIOR = 50, 0.003
_SHADED = 0.2


@dataclass(frozen=True)
class Face:
    """What is on the sign: sRGB in [0, 1], coverage, and which of it is bare (no artwork on it)."""

    srgb: Float32[np.ndarray, "h w 3"]
    alpha: Float32[np.ndarray, "h w"]
    bare: Float32[np.ndarray, "h w"]


@dataclass(frozen=True)
class Sign:
    """One photograph of the face.

    gain, offset: linear RGB of the photograph = gain · face + offset where the face is lit. slope: relative change of
    the light from the left to the right and from the top to the bottom. shade: the share of light that a shadow takes;
    0 without one. shot, read: variance of a px = shot · light + read². corners_px: of the face, moved to where it is.
    left: root mean square of what is not explained, per channel, relative to the white of the face.
    """

    name: str
    corners_px: Float[np.ndarray, "4 2"]
    gain: Float[np.ndarray, "3"]
    offset: Float[np.ndarray, "3"]
    blur_px: float
    slope: tuple[float, float]
    shade: float
    shot: float
    read: float
    clipped: float
    left: float


@dataclass(frozen=True)
class Window:
    """A part of the photograph: its linear light, which of its px lie well inside the face, u and v of each."""

    origin: tuple[int, int]
    light: Float[np.ndarray, "h w 3"]
    inside: Bool[np.ndarray, "h w"]
    uv: Float[np.ndarray, "h w 2"]
    clipped: Bool[np.ndarray, "h w 3"]

    @property
    def trusted(self) -> Bool[np.ndarray, "h w"]:
        """Px of the face that no channel clips."""
        return self.inside & ~self.clipped.any(2)


def read_sign(
    image: Float[np.ndarray, "y x 3"], face: Face, corners_px: Float[np.ndarray, "4 2"], *, name: str
) -> Sign:
    """Measure one photograph (sRGB in [0, 1]); corners_px: of the face, TL TR BR BL, pixel centres at +0.5.

    UserError: the face is too small or lies outside of the photograph.
    """
    corners = np.asarray(corners_px, float)
    height, width = image.shape[:2]
    if (corners < -_MARGIN_PX).any() or (corners > (width + _MARGIN_PX, height + _MARGIN_PX)).any():
        raise UserError(f"{name}: the sign's corners lie outside its {width} x {height} px; check them.")
    if np.ptp(corners, axis=0).max() < _SMALLEST_PX:
        raise UserError(f"{name}: the sign is smaller than {_SMALLEST_PX} px; go nearer to it.")
    corners = _moved(image, face, corners)
    window = look(image, face, corners)
    if window.inside.sum() < 100:
        raise UserError(f"{name}: too little of the bare sign is in the photograph to measure it.")
    drawn = draw(face, corners, window)
    sigma, gain, offset, light = _fit(drawn, window)
    explained = (gain * blurred(drawn, sigma) + offset) * light[..., None]
    rest = window.light - explained
    flat = _flat(blurred(drawn, max(sigma, 0.5))) & window.trusted
    shot, read = _noise(window.light, rest, flat)
    slope, shade, lit = _unevenness(light, window)
    gain, offset = gain * lit, offset * lit
    white = float((gain + offset) @ _LUMINANCE)
    left = float(np.sqrt((rest[window.inside] ** 2).mean()) / max(white / lit, 1e-6))
    clipped = float(window.clipped[window.inside].any(1).mean())
    return Sign(name, corners, gain, offset, sigma, slope, shade, shot, read, clipped, left)


def look(image: Float[np.ndarray, "y x 3"], face: Face, corners_px: Float[np.ndarray, "4 2"]) -> Window:
    """The part of a photograph round the face."""
    height, width = image.shape[:2]
    low = np.clip(np.floor(corners_px.min(0)).astype(int) - _MARGIN_PX, 0, (width, height))
    high = np.clip(np.ceil(corners_px.max(0)).astype(int) + _MARGIN_PX, 0, (width, height))
    part = image[low[1] : high[1], low[0] : high[0]]
    across, down = np.meshgrid(np.arange(part.shape[1]) + low[0] + 0.5, np.arange(part.shape[0]) + low[1] + 0.5)
    back = np.linalg.inv(homography(corners_px))
    uv = cv2.perspectiveTransform(np.stack([across, down], -1).astype(np.float64), back)
    covered = drawn_in(face.alpha * face.bare, corners_px, (int(low[0]), int(low[1])), part.shape[:2])
    inside = cv2.erode((covered > 0.999).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    clipped = (part >= 254.5 / 255) | (part <= 0.5 / 255)
    return Window((int(low[0]), int(low[1])), linear(part), inside, uv, clipped)


def draw(face: Face, corners_px: Float[np.ndarray, "4 2"], window: Window) -> Float[np.ndarray, "h w 3"]:
    """The face's linear light as it lies in the window, unblurred but for the width of a px."""
    return drawn_in(linear(face.srgb).astype(np.float32), corners_px, window.origin, window.inside.shape).astype(float)


def drawn_in(
    picture: Float32[np.ndarray, "a b *c"],
    corners_px: Float[np.ndarray, "4 2"],
    origin: tuple[int, int],
    size: tuple[int, int],
) -> Float32[np.ndarray, "h w *c"]:
    """A picture of the face through its plane, averaged over every px."""
    fine = max(1, min(_FINE, _FINE_MAX_PX // max(size)))
    side = float(np.linalg.norm(np.diff(corners_px, axis=0, append=corners_px[:1]), axis=1).max()) * fine
    if side < picture.shape[1]:
        shape = max(2, round(side)), max(2, round(side * picture.shape[0] / picture.shape[1]))
        picture = cv2.resize(picture, shape, interpolation=cv2.INTER_AREA)
    height, width = picture.shape[:2]
    source = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32) - 0.5
    place = ((corners_px - origin) * fine - 0.5).astype(np.float32)
    matrix = cv2.getPerspectiveTransform(source, place)
    large = cv2.warpPerspective(picture, matrix, (size[1] * fine, size[0] * fine), flags=cv2.INTER_LINEAR)
    return cv2.resize(large, size[::-1], interpolation=cv2.INTER_AREA)


def light_over(drawn: Float[np.ndarray, "h w 3"], window: Window, sign: Sign) -> Float[np.ndarray, "h w"]:
    """The course of the light over the face, 1 where it is lit as `gain` says."""
    return _course(sign.gain * blurred(drawn, sign.blur_px) + sign.offset, window, middle=False)


def blurred(light: Float[np.ndarray, "h w 3"], sigma_px: float) -> Float[np.ndarray, "h w 3"]:
    """A Gaussian of that sigma."""
    return cv2.GaussianBlur(light, (0, 0), sigma_px, borderType=cv2.BORDER_REPLICATE) if sigma_px > 0.05 else light


def _moved(
    image: Float[np.ndarray, "y x 3"], face: Face, corners_px: Float[np.ndarray, "4 2"]
) -> Float[np.ndarray, "4 2"]:
    """Corners shifted so that the drawn face correlates best with the photograph (Evangelidis & Psarakis 2008).

    A homography would follow the blur and the edge of the mask instead.
    """
    window = look(image, face, corners_px)
    drawn = encoded(draw(face, corners_px, window)).mean(2).astype(np.float32)
    seen = encoded(window.light).mean(2).astype(np.float32)
    mask = (cv2.erode(window.inside.astype(np.uint8), np.ones((9, 9), np.uint8)) * 255).astype(np.uint8)
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 60, 1e-5)
    try:
        start = np.eye(2, 3, dtype=np.float32)
        _, warp = cv2.findTransformECC(seen, drawn, start, cv2.MOTION_TRANSLATION, criteria, mask, 5)
    except cv2.error:  # it did not converge: the photograph shows too little of the face
        return corners_px
    moved = corners_px - warp[:, 2]  # it takes px of the photograph to px of the drawing: the corners go the other way
    near = bool(np.linalg.norm(moved - corners_px, axis=1).max() <= _MOVED_PX)
    return moved if near else corners_px


def _fit(
    drawn: Float[np.ndarray, "h w 3"], window: Window
) -> tuple[float, Float[np.ndarray, "3"], Float[np.ndarray, "3"], Float[np.ndarray, "h w"]]:
    """Blur, gain, offset and the light's course of least squares, shadows and spots counting little."""
    light = np.ones(drawn.shape[:2])
    sigma, gain, offset = 0.5, np.ones(3), np.zeros(3)
    for turn in range(_ROUNDS):
        gain, offset, weight = _affine(blurred(drawn, sigma), window, light)
        light = _course(gain * blurred(drawn, sigma) + offset, window)
        if turn:
            sigma = _sharpness(drawn, window, light, weight)
    gain, offset, _ = _affine(blurred(drawn, sigma), window, light)
    return sigma, gain, offset, light


def _affine(
    face: Float[np.ndarray, "h w 3"], window: Window, light: Float[np.ndarray, "h w"]
) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"], Float[np.ndarray, "h w"]]:
    """Gain and offset per channel by Tukey's weights; the weight of every px.

    A clipped px counts for nothing. Where all that is bright is clipped, the little weight of an offset of 0 decides.
    """
    use = window.inside
    terms = np.stack([face[use] * light[use][:, None], np.repeat(light[use][:, None], 3, 1)], -1)
    seen, valid = window.light[use], ~window.clipped[use]
    weight, gain, offset = np.ones(len(seen)), np.ones(3), np.zeros(3)
    for _ in range(4):
        off = np.zeros_like(weight)
        for channel in range(3):
            if valid[:, channel].sum() < _FEWEST_PX:
                continue
            root = np.sqrt(weight * valid[:, channel])
            rows = np.vstack([terms[:, channel] * root[:, None], [0.0, np.sqrt(_PRIOR * (root**2).sum())]])
            solved = np.linalg.lstsq(rows, np.append(seen[:, channel] * root, 0.0), rcond=None)[0]
            gain[channel], offset[channel] = max(float(solved[0]), 1e-6), float(solved[1])
            miss = np.abs(seen[:, channel] - terms[:, channel] @ solved) / gain[channel]
            off = np.maximum(off, np.where(valid[:, channel], miss, 0))
        spread = 4.7 * max(float(np.median(off)) / 0.8, 1e-3)
        weight = np.clip(1 - (off / spread) ** 2, 0, 1) ** 2 + 1e-6
    every = np.zeros(face.shape[:2])
    every[use] = weight
    return gain, offset, every


def _course(explained: Float[np.ndarray, "h w 3"], window: Window, *, middle: bool = True) -> Float[np.ndarray, "h w"]:
    """The light's slow course over the face: seen by explained luminance, over an eighth of its side."""
    use = window.trusted.astype(float)
    sigma = max(3.0, float(np.sqrt(window.inside.sum())) / 16)
    seen, model = window.light @ _LUMINANCE * use, np.maximum(explained @ _LUMINANCE, 0) * use
    top, bottom = (cv2.GaussianBlur(one, (0, 0), sigma) for one in (seen, model))
    ratio = np.where(bottom > 1e-9, top / np.maximum(bottom, 1e-9), 1.0)
    ratio = np.clip(ratio, 0.1, 10)
    scale = max(float(np.median(ratio[window.inside])), 1e-6) if middle else 1.0
    return np.where(bottom > 1e-6, ratio / scale, 1.0)


def _sharpness(
    drawn: Float[np.ndarray, "h w 3"],
    window: Window,
    light: Float[np.ndarray, "h w"],
    weight: Float[np.ndarray, "h w"],
) -> float:
    """Sigma that leaves least, gain and offset free for each."""
    use = (weight > 0.05) & window.trusted
    seen = window.light[use] / np.maximum(light[use], 1e-3)[:, None]
    misses = []
    for sigma in _SIGMAS_PX:
        face = blurred(drawn, sigma)[use]
        centred, wanted = face - face.mean(0), seen - seen.mean(0)
        slope = (centred * wanted).sum(0) / np.maximum((centred**2).sum(0), 1e-12)
        misses.append(float(((wanted - slope * centred) ** 2).sum()))
    return float(_SIGMAS_PX[int(np.argmin(misses))])


def _flat(face: Float[np.ndarray, "h w 3"]) -> Bool[np.ndarray, "h w"]:
    """Px whose neighbours show the same colour."""
    square = np.ones((5, 5), np.uint8)
    return np.ptp([cv2.erode(face, square), cv2.dilate(face, square)], axis=0).max(2) < _STEEP


def _noise(
    light: Float[np.ndarray, "h w 3"], rest: Float[np.ndarray, "h w 3"], flat: Bool[np.ndarray, "h w"]
) -> tuple[float, float]:
    """shot, read from the variance of what is left inside flat blocks of 6 px, each less its own slope."""
    means, variances = [], []
    rows, columns = (n // _BLOCK_PX for n in flat.shape)
    place = np.indices((_BLOCK_PX, _BLOCK_PX)).reshape(2, -1).T - (_BLOCK_PX - 1) / 2
    terms = np.column_stack([np.ones(_BLOCK_PX**2), place])
    away = np.eye(_BLOCK_PX**2) - terms @ np.linalg.pinv(terms)
    for row in range(rows):
        for column in range(columns):
            block = np.s_[row * _BLOCK_PX : (row + 1) * _BLOCK_PX, column * _BLOCK_PX : (column + 1) * _BLOCK_PX]
            if flat[block].all():
                left = away @ rest[block].reshape(-1, 3)
                means.append(light[block].reshape(-1, 3).mean(0))
                variances.append((left**2).sum(0) / (_BLOCK_PX**2 - 3))
    if len(means) < 4:
        return 0.0, 0.0
    level, variance = np.concatenate(means), np.concatenate(variances)
    pair = np.column_stack([level, np.ones_like(level)])
    fitted, shot, read2 = np.full_like(variance, variance.mean()), 0.0, 0.0
    for _ in range(5):
        weight = 1 / np.maximum(fitted, 1e-9)
        shot, read2 = non_negative(pair * weight[:, None], variance * weight)
        fitted = shot * level + read2
    return shot, float(np.sqrt(read2))


def _unevenness(light: Float[np.ndarray, "h w"], window: Window) -> tuple[tuple[float, float], float, float]:
    """Slopes across and down the face, the depth of a shadow, and how bright the lit part is, the middle being 1.

    Light that a plane does not explain, and that differs by more than `_SHADED`, is a shadow; then there is no slope.
    """
    course, uv = light[window.inside], window.uv[window.inside]
    terms = np.column_stack([np.ones(len(course)), uv - 0.5])
    plane = np.linalg.lstsq(terms, course, rcond=None)[0]
    rest = course / np.maximum(terms @ plane, 1e-3)
    low, high = np.percentile(rest, (5, 95))
    if 1 - low / max(high, 1e-6) < _SHADED:
        return (float(plane[1] / plane[0]), float(plane[2] / plane[0])), 0.0, 1.0
    dark, bright = np.percentile(course, (8, 92))
    return (0.0, 0.0), float(1 - dark / max(bright, 1e-6)), float(bright)
